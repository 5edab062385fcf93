#include "hub/repo_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "core/text.h"
#include "hub/names.h"
#include "io/json_file.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

constexpr int kListFormat = 1;

// Backup programs look for this; https://bford.info/cachedir/.
constexpr auto kCacheDirTag =
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by huggingface_hub.\n"
    "# For information about cache directory tags, see:\n"
    "#\thttps://bford.info/cachedir/\n";

void make_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, ErrorKind::io, "{}: the folder cannot be created: {}; HF_HUB_CACHE or cache_dir can name another one",
        folder.string(), error.message());
}

void write(const fs::path& file, std::string_view text) {
  make_folders(file.parent_path());
  write_text(file, text);
}

fs::path sibling(const fs::path& path) {
  std::random_device random;
  return path.parent_path() / fmt::format(".{}.{:08x}.tmp", path.filename().string(), random());
}

bool is_same_file(const fs::path& a, const fs::path& b) {
  std::error_code error;
  return fs::equivalent(a, b, error);
}

// After a failure to write `path`: removes `temporary` and throws.
void check_written(const std::error_code& error, const fs::path& temporary, const fs::path& path) {
  if (!error) return;
  std::error_code ignored;
  fs::remove(temporary, ignored);
  fail(ErrorKind::io, "{}: cannot be put into the cache: {}", path.string(), error.message());
}

void rename_onto(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  check_written(error, from, to);
}

nlohmann::ordered_json to_json(const HubFile& file) {
  nlohmann::ordered_json json{{"size", file.size}, {"blob_id", file.blob_id}};
  if (!file.lfs_sha256.empty()) {
    json["lfs_sha256"] = file.lfs_sha256;
    json["lfs_size"] = file.lfs_size;
  }
  if (!file.xet_hash.empty()) json["xet_hash"] = file.xet_hash;
  return json;
}

HubFile from_json(const std::string& name, const nlohmann::json& json) {
  HubFile file{.name = name, .size = json.at("size"), .blob_id = json.at("blob_id")};
  if (auto digest = json.find("lfs_sha256"); digest != json.end() && digest->is_string()) {
    file.lfs_sha256 = *digest;
    file.lfs_size = json.at("lfs_size");
  }
  if (auto hash = json.find("xet_hash"); hash != json.end() && hash->is_string()) file.xet_hash = *hash;
  check_file_name(name, "the cache");
  check(is_sha1(file.etag()) || is_sha256(file.etag()), ErrorKind::bad_file, "{}: the cache lists it without a digest",
        name);
  return file;
}

}  // namespace

RepoCache::RepoCache(fs::path cache_dir, const std::string& repo_id) : cache_dir_(std::move(cache_dir)) {
  auto name = "models--" + replace_all(repo_id, "/", "--");
  folder_ = cache_dir_ / name;
  locks_ = cache_dir_ / ".locks" / name;
}

std::optional<fs::path> RepoCache::find(const std::string& commit, const std::string& file) const {
  auto path = snapshot(commit) / file;
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return {};
  return path;
}

std::vector<std::string> RepoCache::files(const std::string& commit) const {
  std::vector<std::string> names;
  auto folder = snapshot(commit);
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(folder, error))
    if (entry.is_regular_file(error)) names.push_back(entry.path().lexically_relative(folder).generic_string());
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string> RepoCache::commit_of(const std::string& revision) const {
  if (is_commit(revision)) return revision;
  auto file = folder_ / "refs" / revision;
  if (!fs::is_regular_file(file)) return {};
  auto commit = read_text(file);
  if (!is_commit(commit)) return {};
  return commit;
}

void RepoCache::note_commit(const std::string& revision, const std::string& commit) const {
  if (commit_of(revision) != commit) write(folder_ / "refs" / revision, commit);
}

std::optional<std::vector<HubFile>> RepoCache::list(const std::string& commit) const {
  auto path = list_file(commit);
  if (!fs::is_regular_file(path)) return {};
  try {
    auto json = read_json(path);
    if (json.at("format_version") != kListFormat) return {};
    std::vector<HubFile> files;
    for (const auto& [name, file] : json.at("files").items()) files.push_back(from_json(name, file));
    return files;
  } catch (const std::exception&) {
    return {};  // the caller asks the Hub again
  }
}

void RepoCache::note_list(const std::string& commit, std::vector<HubFile> files) const {
  std::sort(files.begin(), files.end(), [](auto& a, auto& b) { return a.name < b.name; });
  auto entries = nlohmann::ordered_json::object();
  for (const auto& file : files) entries[file.name] = to_json(file);
  nlohmann::ordered_json json{{"format_version", kListFormat}, {"files", entries}};
  write(list_file(commit), json.dump(1, ' ', /*ensure_ascii=*/true));
}

void RepoCache::note_missing(const std::string& commit, const std::string& file) const {
  auto path = folder_ / ".no_exist" / commit / file;
  if (!fs::exists(path)) write(path, "");
}

void RepoCache::prepare() const {
  make_folders(folder_ / "blobs");
  make_folders(locks_);
  if (auto tag = cache_dir_ / "CACHEDIR.TAG"; !fs::exists(tag)) write(tag, kCacheDirTag);
}

void RepoCache::place(const std::string& etag, const std::string& commit, const std::string& file, bool is_new,
                      bool copies) const {
  auto path = snapshot(commit) / file, bytes = blob(etag);
  make_folders(path.parent_path());
  if (!is_new && is_same_file(path, bytes)) return;
  auto temporary = sibling(path);
  if (!copies) {
    auto target = bytes.lexically_relative(path.parent_path());
    if (::symlink(target.c_str(), temporary.c_str()) == 0) return rename_onto(temporary, path);
    check(errno == EPERM || errno == ENOTSUP || errno == ENOSYS, ErrorKind::io, "{}: cannot be put into the cache: {}",
          path.string(), std::generic_category().message(errno));
  }
  if (is_new) return rename_onto(bytes, path);
  std::error_code error;
  fs::copy_file(bytes, temporary, error);
  check_written(error, temporary, path);
  rename_onto(temporary, path);
}

}  // namespace lora
