// remove_from_cache: removes a repository, or single revisions of it.
#include <algorithm>
#include <set>

#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "lora/hub.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

void take_away(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  check(!error, ErrorKind::io, "{}: cannot be removed: {}", path.string(), error.message());
}

// The bytes on disk of one blob. 0 for a link to a blob that repositories share.
uint64_t own_size(const fs::path& blob) {
  std::error_code error;
  return fs::is_symlink(blob) ? 0 : fs::file_size(blob, error);
}

uint64_t size_of_tree(const fs::path& folder) {
  uint64_t total = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && !entry.is_symlink()) total += entry.file_size();
  return total;
}

}  // namespace

uint64_t remove_from_cache(const CacheInfo& cache, const CachedRepo& repo,
                           const std::vector<std::string>& commit_hashes) {
  return edge([&] {
    std::set<std::string> wanted(commit_hashes.begin(), commit_hashes.end());
    std::set<fs::path> kept, dropped;
    size_t found = 0;
    for (const auto& revision : repo.revisions) {
      bool goes = wanted.contains(revision.commit_hash);
      found += goes;
      for (const auto& file : revision.files) (goes ? dropped : kept).insert(file.blob);
    }
    if (found < wanted.size()) {
      std::vector<std::string> there;
      for (const auto& revision : repo.revisions) there.push_back(revision.commit_hash);
      fail(ErrorKind::not_found, "{}: the cache has no such revision; it has {}", repo.repo_id, listing(there));
    }
    // Removes links before their targets. So a removal that stops half-way leaves no broken link.
    if (wanted.empty() || found == repo.revisions.size()) {
      auto freed = size_of_tree(repo.path);
      for (const char* part : {"refs", "snapshots"}) take_away(repo.path / part);
      take_away(repo.path);
      take_away(cache.cache_dir / ".locks" / repo.path.filename());
      return freed;
    }
    uint64_t freed = 0;
    for (const auto& revision : repo.revisions) {
      if (!wanted.contains(revision.commit_hash)) continue;
      for (const auto& ref : revision.refs) take_away(repo.path / "refs" / ref);
      for (const auto& file : revision.files)
        if (file.blob == file.path) freed += own_size(file.path);
      take_away(revision.path);
      take_away(repo.path / "trees" / (revision.commit_hash + ".json"));
      take_away(repo.path / ".no_exist" / revision.commit_hash);
    }
    for (const auto& blob : dropped) {
      if (kept.contains(blob) || !fs::exists(fs::symlink_status(blob))) continue;
      freed += own_size(blob);
      take_away(blob);
    }
    return freed;
  });
}

}  // namespace lora
