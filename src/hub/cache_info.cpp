// scan_cache_dir and CacheInfo: lists a cache.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "hub/environment.h"
#include "hub/names.h"
#include "io/json_file.h"
#include "io/json_text.h"
#include "lora/hub.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

const std::map<std::string, std::string> kTypes = {
    {"models", "model"}, {"datasets", "dataset"}, {"spaces", "space"}, {"kernels", "kernel"}};

// Entries of a cache's folder that are not repositories: locks, the tag, shared blobs, a desktop's files.
bool is_other(const std::string& name) {
  return name == ".locks" || name == "CACHEDIR.TAG" || name == "blobs" || name == ".DS_Store";
}

using Sizes = std::map<fs::path, uint64_t>;  // by blob

uint64_t sum(const Sizes& sizes) {
  uint64_t total = 0;
  for (const auto& [blob, size] : sizes) total += size;
  return total;
}

// The target of the first link only. Further links lead to blobs that repositories share.
fs::path blob_of(const fs::path& path) {
  if (!fs::is_symlink(path)) return path;
  return (path.parent_path() / fs::read_symlink(path)).lexically_normal();
}

std::map<std::string, std::vector<std::string>> refs_by_commit(const fs::path& repo) {
  std::map<std::string, std::vector<std::string>> refs;
  std::error_code error;
  auto folder = repo / "refs";
  for (const auto& entry : fs::recursive_directory_iterator(folder, error)) {
    auto name = entry.path().lexically_relative(folder).generic_string();
    if (!entry.is_regular_file() || name.ends_with(".tmp")) continue;
    refs[read_text(entry.path())].push_back(name);
  }
  for (auto& [commit, names] : refs) std::sort(names.begin(), names.end());
  return refs;
}

CachedRevision scan_revision(const fs::path& folder, Sizes& of_repo, std::vector<std::string>& warnings) {
  CachedRevision revision{.commit_hash = folder.filename().string(), .path = folder};
  Sizes sizes;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_directory()) continue;
    auto name = entry.path().lexically_relative(folder).generic_string();
    auto blob = blob_of(entry.path());
    std::error_code error;
    auto size = fs::file_size(blob, error);
    if (error) {
      warnings.push_back(fmt::format("{}: {} links to {}, which does not exist", folder.string(), name, blob.string()));
      continue;
    }
    sizes[blob] = of_repo[blob] = size;
    revision.files.push_back({name, entry.path(), blob, size});
  }
  std::sort(revision.files.begin(), revision.files.end(), [](auto& a, auto& b) { return a.name < b.name; });
  revision.size_on_disk = sum(sizes);
  return revision;
}

CachedRepo scan_repo(const fs::path& folder, const std::string& type, const std::string& repo_id, Sizes& sizes,
                     std::vector<std::string>& warnings) {
  CachedRepo repo{.repo_id = repo_id, .repo_type = type, .path = folder};
  auto refs = refs_by_commit(folder);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder / "snapshots", error)) {
    if (!entry.is_directory()) continue;
    auto revision = scan_revision(entry.path(), sizes, warnings);
    if (auto named = refs.extract(revision.commit_hash)) revision.refs = named.mapped();
    repo.revisions.push_back(std::move(revision));
  }
  std::sort(repo.revisions.begin(), repo.revisions.end(),
            [](auto& a, auto& b) { return a.commit_hash < b.commit_hash; });
  for (const auto& [commit, names] : refs)
    warnings.push_back(fmt::format("{}: {} points to {}, but the cache has no files of it", folder.string(),
                                   join(names, ", "), commit));
  for (const auto& entry : fs::directory_iterator(folder / "blobs", error))
    if (entry.path().extension() == ".incomplete") repo.incomplete_size += entry.file_size(error);
  repo.size_on_disk = sum(sizes);
  repo.nb_files = sizes.size();
  return repo;
}

}  // namespace

CacheInfo scan_cache_dir(const fs::path& cache_dir) {
  return edge([&] {
    CacheInfo info{.cache_dir = hub_cache(cache_dir)};
    check(fs::is_directory(info.cache_dir), ErrorKind::not_found,
          "{}: no such cache; a download creates it; HF_HUB_CACHE or cache_dir names another", info.cache_dir.string());
    Sizes physical;  // counts a blob once if several repositories share it
    for (const auto& entry : fs::directory_iterator(info.cache_dir)) {
      auto name = entry.path().filename().string();
      if (is_other(name)) continue;
      auto dashes = name.find("--");
      auto type = dashes == name.npos ? kTypes.end() : kTypes.find(name.substr(0, dashes));
      if (!entry.is_directory() || type == kTypes.end() || !fs::is_directory(entry.path() / "snapshots")) {
        // A repository without snapshots has only refs or notes about missing files: nothing to list.
        if (type == kTypes.end())
          info.warnings.push_back(fmt::format("{}: is not a repository", entry.path().string()));
        continue;
      }
      Sizes sizes;
      auto repo_id = replace_all(name.substr(dashes + 2), "--", "/");
      info.repos.push_back(scan_repo(entry.path(), type->second, repo_id, sizes, info.warnings));
      for (const auto& [blob, size] : sizes) {
        std::error_code error;
        auto shared = fs::canonical(blob, error);
        physical[error ? blob : shared] = size;
      }
    }
    std::sort(info.repos.begin(), info.repos.end(),
              [](auto& a, auto& b) { return std::tie(a.repo_type, a.repo_id) < std::tie(b.repo_type, b.repo_id); });
    info.size_on_disk = sum(physical);
    return info;
  });
}

std::vector<const CachedRepo*> CacheInfo::find(const std::string& repo_id) const {
  std::vector<const CachedRepo*> found;
  std::vector<std::string> known;
  for (const auto& repo : repos) {
    if (repo.repo_id == repo_id) found.push_back(&repo);
    known.push_back(repo.repo_id);
  }
  auto near = nearest(repo_id, known);
  check(!found.empty(), ErrorKind::not_found, "{}: no such repository in the cache {}{}", repo_id, cache_dir.string(),
        near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near));
  return found;
}

std::string CacheInfo::json() const {
  auto all = nlohmann::ordered_json::array();
  for (const auto& repo : repos) {
    auto revisions = nlohmann::ordered_json::array();
    for (const auto& r : repo.revisions)
      revisions.push_back({{"commit_hash", r.commit_hash},
                           {"refs", r.refs},
                           {"size_on_disk", r.size_on_disk},
                           {"nb_files", r.files.size()},
                           {"path", r.path.string()}});
    all.push_back({{"repo_id", repo.repo_id},
                   {"repo_type", repo.repo_type},
                   {"size_on_disk", repo.size_on_disk},
                   {"incomplete_size", repo.incomplete_size},
                   {"nb_files", repo.nb_files},
                   {"path", repo.path.string()},
                   {"revisions", revisions}});
  }
  return json_text(nlohmann::ordered_json{
      {"cache_dir", cache_dir.string()}, {"size_on_disk", size_on_disk}, {"repos", all}, {"warnings", warnings}});
}

}  // namespace lora
