#pragma once
// One repository in the cache, as huggingface_hub lays it out:
//   models--owner--name/refs/<revision>              the last known commit of a branch or tag
//   models--owner--name/snapshots/<commit>/<file>    a link to the blob
//   models--owner--name/blobs/<etag>                 the bytes; <etag>.incomplete during the download
//   models--owner--name/trees/<commit>.json          the list of files
//   models--owner--name/.no_exist/<commit>/<file>    an empty file: the commit has no such file
//   .locks/models--owner--name/<etag>.lock           the lock of a blob
#include <optional>
#include <string>
#include <vector>

#include "hub/protocol.h"

namespace lora {

class RepoCache {
 public:
  RepoCache(std::filesystem::path cache_dir, const std::string& repo_id);

  std::filesystem::path snapshot(const std::string& commit) const { return folder_ / "snapshots" / commit; }
  std::filesystem::path blob(const std::string& etag) const { return folder_ / "blobs" / etag; }
  std::filesystem::path lock(const std::string& etag) const { return locks_ / (etag + ".lock"); }

  // The path of a commit's file, or nullopt if the cache does not have it.
  std::optional<std::filesystem::path> find(const std::string& commit, const std::string& file) const;
  // The names of the commit's files that the cache has.
  std::vector<std::string> files(const std::string& commit) const;

  // The revision itself if it is a commit, else the commit that note_commit() stored, or nullopt.
  std::optional<std::string> commit_of(const std::string& revision) const;
  void note_commit(const std::string& revision, const std::string& commit) const;

  // The list of files that note_list() stored, or nullopt.
  std::optional<std::vector<HubFile>> list(const std::string& commit) const;
  void note_list(const std::string& commit, std::vector<HubFile> files) const;

  // Stores that the commit does not have the file.
  void note_missing(const std::string& commit, const std::string& file) const;

  // Creates the folders for a blob and its lock.
  void prepare() const;
  // Puts the blob into the snapshot by a symbolic link. If `copies`, or if the file system does not have symbolic
  // links, copies the blob; if it also `is_new`, moves it.
  void place(const std::string& etag, const std::string& commit, const std::string& file, bool is_new,
             bool copies) const;

 private:
  std::filesystem::path cache_dir_, folder_, locks_;

  std::filesystem::path list_file(const std::string& commit) const { return folder_ / "trees" / (commit + ".json"); }
};

}  // namespace lora
