#include "hub/protocol.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "hub/names.h"

namespace lora {

using nlohmann::json;
using Reason = HubFailure::Reason;

namespace {

constexpr int kAttempts = 6;
constexpr int kAttemptsToConnect = 2;  // a missing network does not come back within seconds
constexpr double kFirstWait = 1, kLongestWait = 8;
constexpr double kMostAskedWait = 60;

// The seconds that the server asks to wait, or -1: Retry-After, or the end of its rate limit (`"api";r=0;t=55`).
double asked_wait(const HttpAnswer& answer) {
  auto limits = answer.header("ratelimit");
  if (auto at = limits.find(";t="); at != limits.npos && limits.find(";r=0;") != limits.npos)
    if (auto seconds = parse_integer<uint64_t>(limits.substr(at + 3))) return double(*seconds) + 1;
  if (auto seconds = parse_integer<uint64_t>(answer.header("retry-after"))) return double(*seconds);
  return -1;
}

// The text of an ETag header, without the quotes and the mark of weak ETags.
std::string etag_of(std::string text) {
  if (text.starts_with("W/")) text.erase(0, 2);
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return text;
}

// Whether an ETag can be the name of a file in the cache.
bool is_blob_name(const std::string& etag) {
  return !etag.empty() && etag.size() <= 128 && etag.front() != '.' &&
         std::all_of(etag.begin(), etag.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; });
}

// The address of the next page, from `<https://…>; rel="next"`, or "". A mirror passes on the Hub's own address: that
// becomes the mirror's.
std::string next_page(const HttpAnswer& answer, const std::string& endpoint) {
  constexpr std::string_view kHub = "https://huggingface.co/";
  for (const auto& link : split(answer.header("link"), ',')) {
    auto begin = link.find('<'), end = link.find('>');
    if (begin != link.npos && end != link.npos && begin < end && link.find("rel=\"next\"", end) != link.npos)
      return replace_all(link.substr(begin + 1, end - begin - 1), kHub, endpoint + "/");
  }
  return "";
}

HubFile file_of(const json& entry, const std::string& label) {
  HubFile file{.name = entry.at("path"), .size = entry.at("size"), .blob_id = entry.at("oid")};
  if (auto lfs = entry.find("lfs"); lfs != entry.end() && lfs->is_object()) {
    file.lfs_sha256 = lfs->at("oid");
    file.lfs_size = lfs->at("size");
  }
  if (auto hash = entry.find("xetHash"); hash != entry.end() && hash->is_string()) file.xet_hash = *hash;
  check_file_name(file.name, label);
  bool named = is_sha1(file.blob_id) && (file.lfs_sha256.empty() || is_sha256(file.lfs_sha256)) &&
               (file.xet_hash.empty() || is_sha256(file.xet_hash));
  if (!named) throw HubFailure(Reason::answer, fmt::format("{}: the Hub lists {} without a digest", label, file.name));
  return file;
}

}  // namespace

std::string HubPlace::label() const {
  auto repo = revision == "main" ? repo_id : fmt::format("{} at {}", repo_id, revision);
  return file.empty() ? repo : repo + ": " + file;
}

void HubClient::check_answer(const HttpAnswer& answer, const HubPlace& place) const {
  if (answer.status / 100 == 2) return;
  auto fail_with = [&](Reason reason, const std::string& text, double wait = -1) {
    throw HubFailure(reason, fmt::format("{}: {}", place.label(), text), wait);
  };
  auto code = answer.header("x-error-code"), message = answer.header("x-error-message");
  auto page = fmt::format("{}/{}", settings_.endpoint, place.repo_id);
  const bool sent_token = !settings_.token.empty();
  const char* token_hint = sent_token
                               ? "the token that was sent (the stored login, or the given one) does not give access"
                               : "no token was sent: log in with `hf auth login`, or set HF_TOKEN";
  if (code == "RevisionNotFound")
    fail_with(Reason::revision, fmt::format("the Hub has no such revision of this repository; {}/tree/main lists its "
                                            "branches and tags",
                                            page));
  if (code == "EntryNotFound")
    fail_with(Reason::entry, fmt::format("the repository has no such file; {}/tree/{} lists what it has", page,
                                         url_quoted(place.revision)));
  if (code == "GatedRepo")
    fail_with(Reason::refused,
              fmt::format("the repository is gated: accept its conditions at {}; {}", page, token_hint));
  if (code == "RepoNotFound" || (answer.status == 401 && message != "Invalid credentials in Authorization header"))
    fail_with(Reason::repository, fmt::format("the Hub has no such repository, or it is private; {}", token_hint));
  if (answer.status == 401)
    fail_with(Reason::refused, "the Hub does not know the token that was sent; check HF_TOKEN or the stored login");
  if (answer.status == 403)
    fail_with(Reason::refused, fmt::format("{} refuses access ({}); {}", shown_url(answer.url),
                                           message.empty() ? "403" : message, token_hint));
  auto wait = asked_wait(answer);
  if (answer.status == 429)
    fail_with(Reason::busy,
              wait > 0 ? fmt::format("too many requests: the Hub asks to retry in {:.0f} s{}", wait,
                                     sent_token ? "" : "; with a token, the Hub allows more requests")
                       : "too many requests: retry later",
              wait);
  if (answer.status == 408 || answer.status >= 500)
    fail_with(Reason::busy, fmt::format("{} cannot answer now ({})", shown_url(answer.url), answer.status), wait);
  fail_with(Reason::answer, fmt::format("{} answered with {}{}", shown_url(answer.url), answer.status,
                                        message.empty() ? "" : ": " + message));
}

void HubClient::with_patience(int attempts, const std::function<void()>& work, const std::function<bool()>& advanced) {
  double wait = kFirstWait;
  for (int attempt = 1;; ++attempt) {
    try {
      return work();
    } catch (const HubFailure& failure) {
      if (advanced && advanced()) attempt = 1, wait = kFirstWait;
      bool passes = failure.reason() == Reason::busy || failure.reason() == Reason::broken ||
                    failure.reason() == Reason::connection;
      int most = failure.reason() == Reason::connection ? std::min(attempts, kAttemptsToConnect) : attempts;
      if (!passes || attempt >= most || failure.wait() > kMostAskedWait) throw;
      meter_.wait(failure.wait() >= 0 ? failure.wait() : wait);
      wait = std::min(2 * wait, kLongestWait);
    }
  }
}

HttpRequest HubClient::request(const HubPlace& place, const std::string& url, int timeout) const {
  return {.url = url, .label = place.label(), .timeout = timeout, .stop = [this] { return meter_.stopped(); }};
}

std::string HubClient::file_url(const HubPlace& place) const {
  return fmt::format("{}/{}/resolve/{}/{}", settings_.endpoint, place.repo_id, url_quoted(place.revision, ""),
                     url_quoted(place.file));
}

HttpAnswer HubClient::get_json(const HubPlace& place, const std::string& url, bool patient) {
  HttpAnswer answer;
  with_patience(patient ? kAttempts : 1, [&] {
    answer = http_.get(request(place, url, settings_.etag_timeout));
    check_answer(answer, place);
  });
  return answer;
}

std::string HubClient::commit_of(const HubPlace& place, bool patient) {
  auto answer = get_json(
      place,
      fmt::format("{}/api/models/{}/revision/{}", settings_.endpoint, place.repo_id, url_quoted(place.revision, "")),
      patient);
  auto info = json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  auto sha = info.is_object() ? info.value("sha", json()) : json();
  if (!sha.is_string() || !is_commit(sha.get<std::string>()))
    throw HubFailure(Reason::answer,
                     fmt::format("{}: the answer of {} is not one of the Hub; is HF_ENDPOINT right, or does "
                                 "the network require a login?",
                                 place.label(), shown_url(answer.url)));
  return sha;
}

std::vector<HubFile> HubClient::list(const HubPlace& place, bool patient) {
  auto url = fmt::format("{}/api/models/{}/tree/{}?recursive=true&expand=false", settings_.endpoint, place.repo_id,
                         url_quoted(place.revision, ""));
  std::vector<HubFile> files;
  while (!url.empty()) {
    auto answer = get_json(place, url, patient);
    auto entries = json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
    try {
      if (!entries.is_array()) throw json::type_error::create(302, "no array", &entries);
      for (const auto& entry : entries)
        if (entry.at("type") == "file") files.push_back(file_of(entry, place.label()));
    } catch (const json::exception&) {
      throw HubFailure(Reason::answer, fmt::format("{}: the answer of {} is not a list of files", place.label(),
                                                   shown_url(answer.url)));
    }
    auto next = next_page(answer, settings_.endpoint);
    auto target = next.empty() ? "" : joined_url(url, next);
    if (!next.empty() && (!same_origin(target, url) || target == url || entries.empty()))
      throw HubFailure(Reason::answer,
                       fmt::format("{}: the list of files continues at another server than the Hub", place.label()));
    url = target;
  }
  return files;
}

HubMetadata HubClient::metadata(const HubPlace& place, bool patient) {
  HubMetadata metadata;
  with_patience(patient ? kAttempts : 1, [&] {
    auto answer = http_.head(request(place, file_url(place), settings_.etag_timeout));
    bool leads_off = answer.status / 100 == 3 && !answer.header("location").empty();
    try {
      if (!leads_off) check_answer(answer, place);
    } catch (const HubFailure& failure) {
      auto commit = answer.header("x-repo-commit");
      if (failure.reason() == Reason::entry && is_commit(commit)) throw HubMissing(failure, commit);
      throw;
    }
    auto linked = answer.header("x-linked-etag"), length = answer.header("x-linked-size");
    if (length.empty() && answer.status / 100 == 2) length = answer.header("content-length");
    metadata = {etag_of(linked.empty() ? answer.header("etag") : linked), answer.header("x-repo-commit"),
                parse_integer<uint64_t>(length)};
    if (!is_commit(metadata.commit))
      throw HubFailure(Reason::answer, fmt::format("{}: the answer of {} is not one of the Hub (no X-Repo-Commit); is "
                                                   "HF_ENDPOINT right, or does the network require a login?",
                                                   place.label(), shown_url(answer.url)));
    if (!is_blob_name(metadata.etag))
      throw HubFailure(Reason::answer,
                       fmt::format("{}: the Hub gives no ETag that can name a file in the cache", place.label()));
  });
  return metadata;
}

void HubClient::get(const HubPlace& place, uint64_t from, const Http::Begin& begin) {
  auto asked = request(place, file_url(place), settings_.download_timeout);
  asked.from = from;
  auto answer = http_.get(asked, begin);
  if (answer.status != 416) check_answer(answer, place);
}

}  // namespace lora
