// hf_hub_download, hf_hub_download_files and snapshot_download.
#include <fnmatch.h>

#include <algorithm>

#include "core/edge.h"
#include "core/text.h"
#include "hub/names.h"
#include "hub/snapshot.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

bool matches(const std::string& file, const std::vector<std::string>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(), [&](std::string pattern) {
    std::replace(pattern.begin(), pattern.end(), '\\', '/');  // Windows users write these
    if (pattern.ends_with('/')) pattern += '*';
    return ::fnmatch(pattern.c_str(), file.c_str(), FNM_NOESCAPE) == 0;
  });
}

}  // namespace

fs::path hf_hub_download(const std::string& repo_id, const std::string& filename, const HubOptions& options) {
  return edge([&] {
    HubSettings settings(options);
    HubPlace place{repo_id, settings.revision, filename};
    check_repo_id(repo_id);
    check_revision(settings.revision);
    check_file_name(filename, place.label());
    RepoCache cache(settings.cache_dir, repo_id);

    auto commit = cache.commit_of(settings.revision);
    auto cached = commit && !settings.force ? cache.find(*commit, filename) : std::nullopt;
    if (cached && (settings.offline || is_commit(settings.revision))) return *cached;
    if (settings.offline) fail_offline(place, settings.cache_dir);

    Meter meter(options.progress, repo_id);
    HubClient client(settings, meter);
    HubMetadata metadata;
    try {
      metadata = client.metadata(place, /*patient=*/!cached);
    } catch (const HubMissing& missing) {
      cache.note_missing(missing.commit(), filename);
      cache.note_commit(settings.revision, missing.commit());
      throw;
    } catch (const HubFailure& failure) {
      if (cached && failure.cache_will_do()) return *cached;
      throw;
    }
    auto path = settings.force ? std::nullopt : cache.find(metadata.commit, filename);
    try {
      cache.note_commit(settings.revision, metadata.commit);
    } catch (const Error&) {
      if (!path) throw;  // if the file is there, the cache need not be writable
    }
    if (path) return *path;
    meter.expect_files(1);
    return bring(client, meter, cache, settings, {{repo_id, metadata.commit, filename}, metadata.etag, metadata.size});
  });
}

fs::path hf_hub_download_files(const std::string& repo_id, const std::vector<std::string>& filenames,
                               const HubOptions& options) {
  return edge([&] { return Snapshot(repo_id, options).fetch(filenames); });
}

fs::path snapshot_download(const std::string& repo_id, const FilePatterns& patterns, const HubOptions& options) {
  return edge([&] {
    Snapshot snapshot(repo_id, options);
    const auto& [allowed, ignored] = patterns;
    std::vector<std::string> wanted;
    auto files = snapshot.files();
    for (const auto& file : files)
      if ((allowed.empty() || matches(file, allowed)) && !matches(file, ignored)) wanted.push_back(file);
    check(!wanted.empty(), ErrorKind::not_found, "{}: the patterns match none of its {} files: {}", repo_id,
          files.size(), listing(files));
    return snapshot.fetch(wanted);
  });
}

}  // namespace lora
