#pragma once
// A revision of a repository: its list of files, and its folder in the cache.
#include "hub/repo_cache.h"
#include "hub/transfer.h"

namespace lora {

class Snapshot {
 public:
  // Asks the Hub for the commit. Uses the cache's if the call is offline, or if the Hub is unreachable or rejects the
  // token. Throws as hf_hub_download() does.
  Snapshot(const std::string& repo_id, const HubOptions& options);

  const std::string& commit() const { return commit_; }
  std::filesystem::path folder() const { return cache_.snapshot(commit_); }
  // The names of all files. If neither Hub nor cache gives a list, the names of the files in the cache.
  std::vector<std::string> files();
  // Downloads those of `files` that the cache does not have. Returns the folder.
  std::filesystem::path fetch(const std::vector<std::string>& files);
  // Why the call uses the cache in place of the Hub. "" if it uses the Hub, or if the caller asked for the cache.
  std::string note() const { return away_ ? away_->what() : ""; }
  // Whether files() is the whole list of the revision, not only the files in the cache.
  bool listed() const { return list_.has_value(); }

 private:
  HubSettings settings_;
  HubPlace place_;
  RepoCache cache_;
  Meter meter_;
  HubClient client_;
  std::string commit_;
  std::optional<HubFailure> away_;  // why the Hub is not used
  std::optional<std::vector<HubFile>> list_;

  bool away() const { return settings_.offline || away_; }
  HubPlace at_commit(const std::string& file = "") const { return {place_.repo_id, commit_, file}; }
  void stand_in(const HubFailure& failure);
  [[noreturn]] void fail_away(const std::string& file) const;
  void load_list();
  std::vector<HubFile> absent(const std::vector<std::string>& files);
  void download(const std::vector<HubFile>& files);
};

// Throws Error{not_found}: the call is offline, and the cache does not have the place.
[[noreturn]] void fail_offline(const HubPlace& place, const std::filesystem::path& folder);

// Downloads a blob if the cache does not have it, and puts it into the commit's snapshot. Returns its path there.
std::filesystem::path bring(HubClient& client, Meter& meter, const RepoCache& cache, const HubSettings& settings,
                            const Blob& blob);

}  // namespace lora
