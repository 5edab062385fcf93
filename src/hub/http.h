#pragma once
// HTTP over libcurl: one connection pool, and the rules about which servers get the token.
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "hub/settings.h"

namespace lora {

struct HttpAnswer {
  long status = 0;
  std::string url;                             // the address that answered, after redirects
  std::map<std::string, std::string> headers;  // names in lower case; the last of several equal names
  std::string body;                            // empty if a sink took it

  // The header's value, or "". `name` is in lower case.
  std::string header(const std::string& name) const;
};

struct HttpRequest {
  std::string url;
  std::string label;           // names the repository and file in messages
  uint64_t from = 0;           // asks for the bytes from this position on
  int timeout = 10;            // seconds without an answer or a byte
  std::function<bool()> stop;  // called repeatedly; true cancels the request
};

// An address for messages: without user, password and query, which may hold secrets.
std::string shown_url(const std::string& url);
// The address that `location` names, relative to `url`. "" if it is not an http or https address.
std::string joined_url(const std::string& url, const std::string& location);
bool same_origin(const std::string& a, const std::string& b);

// Follows redirects, but never from https to http. Sends the token only to the Hub's own servers. After a redirect to
// another server, sends it to nobody. Throws HubFailure if there is no answer. Threads: one thread at a time.
class Http {
 public:
  using Sink = std::function<void(std::string_view)>;
  using Begin = std::function<Sink(const HttpAnswer&)>;

  explicit Http(const HubSettings& settings);
  ~Http();
  Http(const Http&) = delete;
  Http& operator=(const Http&) = delete;

  // Does not follow a redirect that leaves the Hub: that answer has the headers about the file.
  HttpAnswer head(const HttpRequest& request) { return follow(request, /*head=*/true, {}); }
  // Calls `begin` once with a good answer (2xx or 416) before its body. The sink that `begin` returns takes the body.
  HttpAnswer get(const HttpRequest& request, const Begin& begin = {}) { return follow(request, /*head=*/false, begin); }

 private:
  struct Transfer;
  const HubSettings& settings_;
  void* curl_;

  HttpAnswer follow(const HttpRequest& request, bool head, const Begin& begin);
  HttpAnswer once(const HttpRequest& request, const std::string& url, const std::string& token, bool head,
                  const Begin& begin);
  bool is_hub(const std::string& url) const;
};

}  // namespace lora
