#include "hub/snapshot.h"

#include <algorithm>
#include <exception>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "core/text.h"
#include "hub/file_lock.h"
#include "hub/names.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

constexpr size_t kThreads = 8;
constexpr double kLockWait = 0.05;  // seconds between two looks

// Ignores errors: a cache that cannot be written can still be read.
void note_commit(const RepoCache& cache, const std::string& revision, const std::string& commit) {
  try {
    cache.note_commit(revision, commit);
  } catch (const Error&) {
  }
}

std::string unique_suffix() { return fmt::format(".{:08x}.incomplete", std::random_device()()); }

}  // namespace

void fail_offline(const HubPlace& place, const fs::path& folder) {
  fail(ErrorKind::not_found,
       "{}: it is not in the cache ({}), and the call is offline (HF_HUB_OFFLINE or local_files_only)", place.label(),
       folder.string());
}

fs::path bring(HubClient& client, Meter& meter, const RepoCache& cache, const HubSettings& settings, const Blob& blob) {
  const auto& [place, etag, size] = blob;
  cache.prepare();
  FileLock lock(cache.lock(etag), [&] { meter.wait(kLockWait); });
  auto bytes = cache.blob(etag);
  std::error_code error;
  bool there = fs::is_regular_file(bytes, error) && (!size || fs::file_size(bytes, error) == *size);
  if (!there || settings.force) {
    // Without a lock, other processes may write the same file.
    auto incomplete = bytes;
    incomplete += lock.held() ? ".incomplete" : unique_suffix();
    transfer(client, meter, blob, incomplete, settings.force);
    fs::rename(incomplete, bytes, error);
    check(!error, ErrorKind::io, "{}: cannot be put into the cache: {}", bytes.string(), error.message());
  }
  cache.place(etag, place.revision, place.file, /*is_new=*/!there || settings.force, settings.copies);
  meter.file_done(place.file);
  return cache.snapshot(place.revision) / place.file;
}

Snapshot::Snapshot(const std::string& repo_id, const HubOptions& options)
    : settings_(options),
      place_{repo_id, settings_.revision},
      cache_(settings_.cache_dir, repo_id),
      meter_(options.progress, repo_id),
      client_(settings_, meter_) {
  check_repo_id(repo_id);
  check_revision(settings_.revision);
  auto cached = cache_.commit_of(settings_.revision);
  if (is_commit(settings_.revision)) {
    commit_ = settings_.revision;
  } else if (settings_.offline) {
    if (!cached) fail_offline(place_, settings_.cache_dir);
    commit_ = *cached;
  } else {
    try {
      commit_ = client_.commit_of(place_, /*patient=*/!cached);
    } catch (const HubFailure& failure) {
      if (!cached) throw;
      stand_in(failure);
      commit_ = *cached;
    }
  }
}

// Goes on with the cache. Throws the failure if the cache cannot help or force_download is set.
void Snapshot::stand_in(const HubFailure& failure) {
  if (!failure.cache_will_do() || settings_.force) throw failure;
  away_ = failure;
}

void Snapshot::load_list() {
  if (list_) return;
  list_ = cache_.list(commit_);
  if (list_ || away()) return;
  auto cached = cache_.files(commit_);
  try {
    list_ = client_.list(at_commit(), /*patient=*/cached.empty());
  } catch (const HubFailure& failure) {
    if (cached.empty()) throw;
    stand_in(failure);
    return;
  }
  try {
    cache_.note_list(commit_, *list_);
  } catch (const Error&) {  // a cache that cannot be written can still be read
  }
}

std::vector<std::string> Snapshot::files() {
  load_list();
  if (!list_) {
    auto cached = cache_.files(commit_);
    if (cached.empty()) fail_away("");
    return cached;
  }
  std::vector<std::string> names;
  for (const auto& file : *list_) names.push_back(file.name);
  return names;
}

void Snapshot::fail_away(const std::string& file) const {
  auto place = HubPlace{place_.repo_id, place_.revision, file};
  if (settings_.offline) fail_offline(place, folder());
  throw HubFailure(away_->reason(), fmt::format("{}: it is not in the cache ({}), and the Hub is unavailable: {}",
                                                place.label(), folder().string(), away_->what()));
}

std::vector<HubFile> Snapshot::absent(const std::vector<std::string>& files) {
  std::vector<std::string> names;
  for (const auto& name : std::set(files.begin(), files.end()))
    if (settings_.force || !cache_.find(commit_, name)) names.push_back(name);
  if (names.empty()) return {};
  if (away()) fail_away(names.front());
  load_list();
  std::map<std::string, const HubFile*> listed;
  for (const auto& file : *list_) listed[file.name] = &file;
  std::vector<HubFile> result;
  for (const auto& name : names) {
    auto found = listed.find(name);
    if (found == listed.end()) {
      std::vector<std::string> all;
      for (const auto& [known, file] : listed) all.push_back(known);
      auto near = nearest(name, all);
      fail(ErrorKind::not_found, "{}: the repository has no such file; {}",
           HubPlace{place_.repo_id, place_.revision, name}.label(),
           near.empty() ? "it has: " + listing(all) : fmt::format("did you mean \"{}\"?", near));
    }
    result.push_back(*found->second);
  }
  return result;
}

fs::path Snapshot::fetch(const std::vector<std::string>& files) {
  for (const auto& file : files) check_file_name(file, place_.label());
  auto wanted = absent(files);
  note_commit(cache_, settings_.revision, commit_);
  if (!wanted.empty()) download(wanted);
  return folder();
}

void Snapshot::download(const std::vector<HubFile>& files) {
  auto queue = files;  // the largest first, so that no large file is the last
  std::sort(queue.begin(), queue.end(), [](auto& a, auto& b) { return a.bytes() > b.bytes(); });
  meter_.expect_files(queue.size());
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr error;
  auto work = [&](HubClient& client) {
    for (size_t i; !meter_.stopped() && (i = next++) < queue.size();) try {
        bring(client, meter_, cache_, settings_, {at_commit(queue[i].name), queue[i].etag(), queue[i].bytes()});
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
        meter_.stop();
      }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(kThreads, queue.size()); ++i)
    threads.emplace_back([&] {
      HubClient client(settings_, meter_);
      work(client);
    });
  work(client_);
  for (auto& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
  meter_.check_stop();
}

}  // namespace lora
