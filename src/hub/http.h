#pragma once
// HTTP over libcurl: one connection pool, and the rules for who gets the token.
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "hub/settings.h"

namespace lora {

struct HttpAnswer {
  long status = 0;
  std::string url;                             // that answered, after redirects
  std::map<std::string, std::string> headers;  // names in lower case; of several alike the last
  std::string body;                            // where nobody took it

  std::string header(const std::string& name) const;
};

struct HttpRequest {
  std::string url;
  std::string label;           // of what it is for, in messages
  uint64_t from = 0;           // leaves out the bytes before
  int timeout = 10;            // seconds without an answer, or without a byte
  std::function<bool()> stop;  // asked now and then
};

// An address for messages: without its query, which may be a signature.
std::string shown_url(const std::string& url);
// What `location` says, seen from `url`; "" where it is no http or https address.
std::string joined_url(const std::string& url, const std::string& location);
bool same_origin(const std::string& a, const std::string& b);

// Not for several threads at once. Redirects are followed, but never from https to http; the token goes to the Hub's
// own servers alone, and once a redirect led elsewhere to nobody. Throws HubFailure where there is no answer.
class Http {
 public:
  using Sink = std::function<void(std::string_view)>;
  using Begin = std::function<Sink(const HttpAnswer&)>;

  explicit Http(const HubSettings& settings);
  ~Http();
  Http(const Http&) = delete;
  Http& operator=(const Http&) = delete;

  // A redirect that leaves the Hub is the answer: it has what the Hub says about the file.
  HttpAnswer head(const HttpRequest& request) { return follow(request, /*head=*/true, {}); }
  // `begin` is called once with a good answer (2xx, and 416), before its body, which its sink takes.
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
