#pragma once
// A revision of a repository: which files it has, and the folder in the cache that has them.
#include "hub/repo_cache.h"
#include "hub/transfer.h"

namespace lora {

class Snapshot {
 public:
  // Finds the commit: from the Hub, or from the cache where the Hub is not to be asked, cannot be reached or does not
  // know us. Throws as hf_hub_download() does.
  Snapshot(const std::string& repo_id, const HubOptions& options);

  const std::string& commit() const { return commit_; }
  std::filesystem::path folder() const { return cache_.snapshot(commit_); }
  // The names of all files; without the Hub and a list of it, of those that are in the cache.
  std::vector<std::string> files();
  // Downloads those of these files that are not in the cache; the folder.
  std::filesystem::path fetch(const std::vector<std::string>& files);
  // Why the cache stands in for the Hub; "" where it does not, or was asked for.
  std::string note() const { return away_ ? away_->what() : ""; }
  // Whether files() is the revision's whole list, not only what the cache has.
  bool listed() const { return list_.has_value(); }

 private:
  HubSettings settings_;
  HubPlace place_;
  RepoCache cache_;
  Meter meter_;
  HubClient client_;
  std::string commit_;
  std::optional<HubFailure> away_;  // why the cache stands in
  std::optional<std::vector<HubFile>> list_;

  bool away() const { return settings_.offline || away_; }
  HubPlace at_commit(const std::string& file = "") const { return {place_.repo_id, commit_, file}; }
  void stand_in(const HubFailure& failure);
  [[noreturn]] void fail_away(const std::string& file) const;
  void load_list();
  std::vector<HubFile> absent(const std::vector<std::string>& files);
  void download(const std::vector<HubFile>& files);
};

// Where a call without a network has nothing to give.
[[noreturn]] void fail_offline(const HubPlace& place, const std::filesystem::path& folder);

// Brings a blob into the cache, if it is not there, and into the commit's snapshot.
std::filesystem::path bring(HubClient& client, Meter& meter, const RepoCache& cache, const HubSettings& settings,
                            const Blob& blob);

}  // namespace lora
