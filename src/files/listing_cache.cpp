#include "files/listing_cache.h"

#include <sys/stat.h>

#include <algorithm>

#include "core/check.h"
#include "files/listing.h"
#include "io/json_file.h"
#include "loaders/metadata.h"
#include "lora/version.h"

namespace lora {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::nanoseconds;

namespace {

// To be raised when a row gets other fields, or when files are read in another way.
constexpr int kFormat = 1;

json head() { return {{"format", kFormat}, {"version", version()}}; }

json as_json(const FileStamp& stamp) { return {stamp.size, stamp.modified, stamp.config_size, stamp.config_modified}; }

bool stat_of(const fs::path& path, struct stat& info) { return ::stat(path.c_str(), &info) == 0; }
int64_t nanoseconds_of(const struct stat& info) {
  constexpr int64_t kMost = 9'000'000'000;  // seconds, as many as 64 bits hold in nanoseconds
  return std::clamp<int64_t>(info.st_mtim.tv_sec, -kMost, kMost) * 1'000'000'000 + info.st_mtim.tv_nsec;
}

// The files that a cache has; none where there is no cache, or where another version of the library wrote it.
json read_files(const fs::path& path, std::vector<std::string>& notes) {
  if (path.empty()) return json::object();
  try {
    if (!fs::exists(path)) return json::object();
    auto all = json::from_cbor(read_text(path), /*strict=*/true, /*allow_exceptions=*/false);
    check(all.is_object() && all.contains("head") && all.contains("files") && all["files"].is_object(),
          ErrorKind::bad_file, "{}: is no cache of LoRAs, or a broken one", path.string());
    return all["head"] == head() ? std::move(all["files"]) : json::object();
  } catch (const Error& error) {
    notes.push_back(fmt::format("the cache is not used: {}", error.what()));
  } catch (const fs::filesystem_error& error) {
    notes.push_back(fmt::format("the cache is not used: {}", error.what()));
  }
  return json::object();
}

}  // namespace

std::chrono::system_clock::time_point FileStamp::time() const {
  return std::chrono::system_clock::time_point(
      std::chrono::duration_cast<std::chrono::system_clock::duration>(nanoseconds(modified)));
}

bool FileStamp::is_too_new() const {
  constexpr auto kCoarsest = std::chrono::seconds(2);  // file systems' time of change goes on in steps of at most this
  return std::chrono::system_clock::now() - time() < kCoarsest;
}

std::optional<FileStamp> stamp_of(const fs::path& file) {
  struct stat info {};
  if (!stat_of(file, info)) return std::nullopt;
  FileStamp stamp{.size = static_cast<uint64_t>(info.st_size), .modified = nanoseconds_of(info)};
  if (stat_of(file.parent_path() / kAdapterConfig, info)) {
    stamp.config_size = info.st_size;
    stamp.config_modified = nanoseconds_of(info);
  }
  return stamp;
}

ListingCache::ListingCache(fs::path path, std::vector<std::string>& notes)
    : path_(std::move(path)), notes_(notes), files_(read_files(path_, notes)), added_(json::object()) {}

std::optional<ListedLora> ListingCache::find(const std::string& file, const FileStamp& stamp) const {
  auto entry = files_.find(file);
  if (entry == files_.end() || !entry->is_object()) return std::nullopt;
  auto then = entry->find("stamp"), row = entry->find("row");
  if (then == entry->end() || row == entry->end() || *then != as_json(stamp)) return std::nullopt;
  return row_of(*row);
}

void ListingCache::put(const std::string& file, const FileStamp& stamp, const ListedLora& row) {
  if (!stamp.is_too_new()) added_[file] = {{"stamp", as_json(stamp)}, {"row", row_json(row)}};
}

void ListingCache::save(const std::string& folder, const std::set<std::string>& seen) {
  if (path_.empty()) return;
  auto is_gone = [&](const std::string& file) { return file.starts_with(folder) && !seen.contains(file); };
  bool gone = false;
  for (const auto& [file, entry] : files_.items()) gone = gone || is_gone(file);
  if (added_.empty() && !gone) return;
  std::vector<std::string> told;  // already when it was read first
  json all{{"head", head()}, {"files", read_files(path_, told)}};
  auto& files = all["files"];
  for (auto it = files.begin(); it != files.end();) it = is_gone(it.key()) ? files.erase(it) : std::next(it);
  files.update(added_);
  try {
    if (path_.has_parent_path()) fs::create_directories(path_.parent_path());
    auto bytes = json::to_cbor(all);
    write_text(path_, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  } catch (const std::exception& error) {
    notes_.push_back(fmt::format("the cache cannot be written: {}", error.what()));
  }
}

}  // namespace lora
