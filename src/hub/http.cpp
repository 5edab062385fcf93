#include "hub/http.h"

#include <curl/curl.h>

#include <exception>
#include <memory>
#include <mutex>
#include <utility>

#include "core/text.h"
#include "hub/failure.h"
#include "lora/version.h"

namespace lora {

namespace {

constexpr size_t kMostBody = 64 << 20;  // bytes of an answer that is not a file
constexpr size_t kMostHeaders = 256 << 10;
constexpr long kBuffer = 512 << 10;
constexpr int kMostRedirects = 20;

struct Deleter {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

std::string part(CURLU* url, CURLUPart what, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, what, &text, flags) != CURLUE_OK) return "";
  std::string result(text);
  curl_free(text);
  return result;
}

std::unique_ptr<CURLU, Deleter> parsed(const std::string& text) {
  std::unique_ptr<CURLU, Deleter> url(curl_url());
  if (curl_url_set(url.get(), CURLUPART_URL, text.c_str(), CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK) return nullptr;
  return url;
}

std::string host_of(const std::string& text) {
  auto url = parsed(text);
  return url ? part(url.get(), CURLUPART_HOST) : text;
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (auto& c : result)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  return result;
}

// The proxy for an address, or "". The most specific key counts, as in the Python package requests.
std::string proxy_for(const std::string& text, const std::map<std::string, std::string>& proxies) {
  auto url = parsed(text);
  auto scheme = part(url.get(), CURLUPART_SCHEME), host = part(url.get(), CURLUPART_HOST);
  for (const auto& name : {scheme + "://" + host, scheme, "all://" + host, std::string("all")})
    if (auto given = proxies.find(name); given != proxies.end()) return given->second;
  return "";
}

// The failure of a transfer, with a message for the caller.
HubFailure failure_of(CURLcode code, const HttpRequest& request, const std::string& url) {
  auto host = host_of(url);
  auto failure = [&](HubFailure::Reason reason, const std::string& text) {
    return HubFailure(reason, fmt::format("{}: {}", request.label, text));
  };
  constexpr auto kConnection = HubFailure::Reason::connection, kBroken = HubFailure::Reason::broken;
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
      return failure(kConnection, fmt::format("{} cannot be found: is there a network? (HF_ENDPOINT names the server; "
                                              "HF_HUB_OFFLINE=1 uses only the cache)",
                                              host));
    case CURLE_COULDNT_RESOLVE_PROXY:
      return failure(kConnection, "the proxy cannot be found; check HTTPS_PROXY or `proxies`");
    case CURLE_COULDNT_CONNECT:
      return failure(kConnection, fmt::format("{} or the proxy does not answer: is there a network?", host));
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_ISSUER_ERROR:
      return failure(kConnection,
                     fmt::format("the certificate of {} is not trusted ({}); if a company's proxy is in between, set "
                                 "SSL_CERT_FILE to its certificates",
                                 host, curl_easy_strerror(code)));
    case CURLE_OPERATION_TIMEDOUT:
      return failure(kBroken, fmt::format("{} sent no byte for {} s", host, request.timeout));
    default:
      return failure(kBroken, fmt::format("the connection to {} broke off ({})", host, curl_easy_strerror(code)));
  }
}

}  // namespace

std::string HttpAnswer::header(const std::string& name) const {
  auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

std::string shown_url(const std::string& url) {
  auto at = parsed(url);
  if (!at) return "an invalid address";
  for (auto what : {CURLUPART_QUERY, CURLUPART_FRAGMENT, CURLUPART_USER, CURLUPART_PASSWORD})
    curl_url_set(at.get(), what, nullptr, 0);
  return part(at.get(), CURLUPART_URL);
}

std::string joined_url(const std::string& url, const std::string& location) {
  auto at = parsed(url);
  if (!at || curl_url_set(at.get(), CURLUPART_URL, location.c_str(), CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK) return "";
  auto scheme = part(at.get(), CURLUPART_SCHEME);
  return scheme == "http" || scheme == "https" ? part(at.get(), CURLUPART_URL) : "";
}

bool same_origin(const std::string& a, const std::string& b) {
  auto one = parsed(a), other = parsed(b);
  if (!one || !other) return false;
  auto is_same = [&](CURLUPart what, unsigned flags = 0) {
    return lower(part(one.get(), what, flags)) == lower(part(other.get(), what, flags));
  };
  return is_same(CURLUPART_SCHEME) && is_same(CURLUPART_HOST) && is_same(CURLUPART_PORT, CURLU_DEFAULT_PORT);
}

// One request and its answer, for curl's callbacks. An exception in a callback waits in `error` until curl returns.
struct Http::Transfer {
  CURL* curl;
  HttpAnswer& answer;
  const Begin& begin;
  const HttpRequest& request;
  Sink sink = {};
  bool begun = false;
  size_t header_bytes = 0;
  std::exception_ptr error = {};

  template <class F>
  size_t guarded(size_t size, F&& work) {
    try {
      work();
      return size;
    } catch (...) {
      error = std::current_exception();
      return 0;
    }
  }

  static size_t on_header(char* data, size_t, size_t size, void* self) {
    auto& t = *static_cast<Transfer*>(self);
    return t.guarded(size, [&] { t.take_header({data, size}); });
  }

  static size_t on_body(char* data, size_t, size_t size, void* self) {
    auto& t = *static_cast<Transfer*>(self);
    return t.guarded(size, [&] { t.take_body({data, size}); });
  }

  static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto& stop = static_cast<Transfer*>(self)->request.stop;
    return stop && stop();
  }

  void take_header(std::string_view line) {
    header_bytes += line.size();
    if (header_bytes > kMostHeaders)
      throw HubFailure(HubFailure::Reason::answer, fmt::format("{}: {} sends more than {} bytes of headers",
                                                               request.label, host_of(answer.url), kMostHeaders));
    if (line.starts_with("HTTP/"))
      answer.headers.clear();  // the headers before were of an interim answer or of a proxy
    auto colon = line.find(':');
    if (colon == line.npos) return;
    answer.headers[lower(line.substr(0, colon))] = trimmed(line.substr(colon + 1));
  }

  void begin_body() {
    if (std::exchange(begun, true)) return;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
    if (begin && (answer.status / 100 == 2 || answer.status == 416)) sink = begin(answer);
  }

  void take_body(std::string_view bytes) {
    begin_body();
    if (sink) return sink(bytes);
    if (answer.body.size() + bytes.size() > kMostBody)
      throw HubFailure(HubFailure::Reason::answer, fmt::format("{}: {} sends an answer of more than {} bytes",
                                                               request.label, host_of(answer.url), kMostBody));
    answer.body += bytes;
  }
};

Http::Http(const HubSettings& settings) : settings_(settings) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  curl_ = curl_easy_init();
  check(curl_, ErrorKind::io, "libcurl cannot start; is there enough memory?");
}

Http::~Http() { curl_easy_cleanup(curl_); }

bool Http::is_hub(const std::string& url) const {
  return same_origin(url, settings_.endpoint) || same_origin(url, "https://huggingface.co") ||
         same_origin(url, "https://hf.co");
}

HttpAnswer Http::follow(const HttpRequest& request, bool head, const Begin& begin) {
  auto url = request.url, token = settings_.token;
  if (!is_hub(url)) token.clear();
  for (int i = 0; i < kMostRedirects; ++i) {
    auto answer = once(request, url, token, head, begin);
    auto location = answer.header("location");
    if (answer.status / 100 != 3 || location.empty()) return answer;
    auto target = joined_url(url, location);
    if (target.empty() || (url.starts_with("https:") && !target.starts_with("https:")))
      throw HubFailure(HubFailure::Reason::answer,
                       fmt::format("{}: {} redirects to an address that is not safe to follow: {}", request.label,
                                   shown_url(url), target.empty() ? "not a web address" : shown_url(target)));
    bool leaves = !is_hub(target);
    if (head && leaves) return answer;
    if (leaves) token.clear();
    url = target;
  }
  throw HubFailure(HubFailure::Reason::answer, fmt::format("{}: {} redirects more than {} times", request.label,
                                                           shown_url(request.url), kMostRedirects));
}

HttpAnswer Http::once(const HttpRequest& request, const std::string& url, const std::string& token, bool head,
                      const Begin& begin) {
  HttpAnswer answer{.url = url};
  Transfer transfer{curl_, answer, begin, request};
  curl_easy_reset(curl_);
  auto set = [this](CURLoption option, auto value) { curl_easy_setopt(curl_, option, value); };

  // "identity": sizes and ranges must count the bytes of the files, not of a compressed form.
  std::unique_ptr<curl_slist, Deleter> headers(curl_slist_append(nullptr, "Accept-Encoding: identity"));
  auto add_header = [&](const std::string& text) { headers.reset(curl_slist_append(headers.release(), text.c_str())); };
  if (!token.empty()) add_header("Authorization: Bearer " + token);
  if (request.from) add_header(fmt::format("Range: bytes={}-", request.from));
  auto proxy = proxy_for(url, settings_.proxies);

  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_HTTPHEADER, headers.get());
  set(CURLOPT_USERAGENT, "lora.cpp/" LORA_VERSION);
  set(CURLOPT_NOBODY, head ? 1L : 0L);
  set(CURLOPT_FOLLOWLOCATION, 0L);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_BUFFERSIZE, kBuffer);
  set(CURLOPT_CONNECTTIMEOUT, long(request.timeout));
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME, long(request.timeout));
  set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  set(CURLOPT_HEADERFUNCTION, Transfer::on_header);
  set(CURLOPT_HEADERDATA, &transfer);
  set(CURLOPT_WRITEFUNCTION, Transfer::on_body);
  set(CURLOPT_WRITEDATA, &transfer);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, Transfer::on_progress);
  set(CURLOPT_XFERINFODATA, &transfer);
  if (!proxy.empty()) set(CURLOPT_PROXY, proxy.c_str());
  if (const auto& trusted = settings_.certificates; !trusted.empty())
    set(std::filesystem::is_directory(trusted) ? CURLOPT_CAPATH : CURLOPT_CAINFO, trusted.c_str());

  auto code = curl_easy_perform(curl_);
  curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &answer.status);
  if (transfer.error) std::rethrow_exception(transfer.error);
  if (code == CURLE_ABORTED_BY_CALLBACK)
    fail(ErrorKind::cancelled, "{}: the download was stopped; the next call continues it", request.label);
  if (code != CURLE_OK) throw failure_of(code, request, url);
  if (!head) transfer.begin_body();  // an empty body
  return answer;
}

}  // namespace lora
