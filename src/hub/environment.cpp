#include "hub/environment.h"

#include <algorithm>
#include <cstdlib>

#include "core/check.h"
#include "core/text.h"
#include "io/json_file.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string first_of(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (auto value = variable(name); !value.empty()) return value;
  return "";
}

bool is_true(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::toupper(c); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

int seconds(const char* name, int fallback) {
  auto text = variable(name);
  if (text.empty()) return fallback;
  auto value = parse_integer<int>(text).value_or(-1);
  check(value >= 0, ErrorKind::usage, "{}={} in the environment: a number of seconds was expected", name, text);
  return value ? value : fallback;
}

bool is_of_a_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// Expands "~" at the beginning, and $NAME or ${NAME} of variables that exist.
fs::path expanded(const std::string& text) {
  std::string path;
  size_t at = 0;
  if (text == "~" || text.starts_with("~/")) path = variable("HOME"), at = 1;
  while (at < text.size()) {
    bool braces = text.compare(at, 2, "${") == 0;
    size_t begin = at + (braces ? 2 : 1), end = begin;
    while (text[at] == '$' && end < text.size() && is_of_a_name(text[end])) ++end;
    bool closed = !braces || (end < text.size() && text[end] == '}');
    auto* value = end > begin && closed ? std::getenv(text.substr(begin, end - begin).c_str()) : nullptr;
    if (value) {
      path += value;
      at = end + (braces ? 1 : 0);
    } else {
      path += text[at++];
    }
  }
  return path;
}

fs::path home() {
  if (auto given = variable("HF_HOME"); !given.empty()) return expanded(given);
  return cache_home() / "huggingface";
}

std::string stored_login() {
  auto given = first_of({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"});
  if (auto token = trimmed(given); !token.empty()) return std::string(token);
  auto place = variable("HF_TOKEN_PATH");
  auto file = place.empty() ? home() / "token" : expanded(place);
  return fs::is_regular_file(file) ? std::string(trimmed(read_text(file))) : "";
}

std::string chosen(const HubToken& token) {
  switch (token.use()) {
    case HubToken::Use::given: return std::string(trimmed(token.text()));
    case HubToken::Use::none: return "";
    case HubToken::Use::if_any: return is_true(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN")) ? "" : stored_login();
    case HubToken::Use::stored: break;
  }
  auto login = stored_login();
  check(!login.empty(), ErrorKind::forbidden,
        "token is true, but there is no stored login: set HF_TOKEN, or log in with `hf auth login`");
  return login;
}

}  // namespace

std::string hub_endpoint() {
  auto endpoint = variable("HF_ENDPOINT");
  if (endpoint.empty()) return "https://huggingface.co";
  while (endpoint.ends_with('/')) endpoint.pop_back();
  check(endpoint.starts_with("https://") || endpoint.starts_with("http://"), ErrorKind::usage,
        "HF_ENDPOINT={} in the environment: an address that begins with https:// was expected", endpoint);
  return endpoint;
}

fs::path cache_home() {
  auto cache = variable("XDG_CACHE_HOME");
  return expanded(cache.empty() ? "~/.cache" : cache);
}

fs::path hub_cache(const fs::path& cache_dir) {
  if (!cache_dir.empty()) return fs::absolute(expanded(cache_dir.string())).lexically_normal();
  auto given = first_of({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"});
  return fs::absolute(given.empty() ? home() / "hub" : expanded(given)).lexically_normal();
}

bool hub_offline() { return is_true(first_of({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"})); }

bool hub_without_symlinks() { return is_true(variable("HF_HUB_DISABLE_SYMLINKS")); }

int hub_etag_timeout() { return seconds("HF_HUB_ETAG_TIMEOUT", 10); }

int hub_download_timeout() { return seconds("HF_HUB_DOWNLOAD_TIMEOUT", 10); }

std::string hub_token(const HubToken& token) {
  auto text = chosen(token);
  // The token becomes part of an HTTP header.
  bool plain = std::all_of(text.begin(), text.end(), [](unsigned char c) { return c > ' ' && c < 0x7f; });
  check(plain, ErrorKind::usage,
        "the token has characters that are not allowed in a token; check HF_TOKEN or the stored login");
  return text;
}

std::string hub_certificates() {
  auto file = first_of({"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"});
  check(file.empty() || fs::exists(file), ErrorKind::not_found,
        "{}: no such file of certificates; SSL_CERT_FILE, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names it", file);
  return file;
}

}  // namespace lora
