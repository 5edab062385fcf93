#pragma once
// One repository in the cache, as huggingface_hub lays it out:
//   models--owner--name/refs/<revision>              the commit that a branch or tag was at
//   models--owner--name/snapshots/<commit>/<file>    a link to the blob
//   models--owner--name/blobs/<etag>                 the bytes; <etag>.incomplete while they come
//   models--owner--name/trees/<commit>.json          the list of files
//   models--owner--name/.no_exist/<commit>/<file>    empty: the commit has no such file
//   .locks/models--owner--name/<etag>.lock
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

  // The file of a commit, where it is there whole.
  std::optional<std::filesystem::path> find(const std::string& commit, const std::string& file) const;
  // The names of a commit's files that are there.
  std::vector<std::string> files(const std::string& commit) const;

  // The revision itself where it is a commit, else what was noted of it.
  std::optional<std::string> commit_of(const std::string& revision) const;
  void note_commit(const std::string& revision, const std::string& commit) const;

  std::optional<std::vector<HubFile>> list(const std::string& commit) const;
  void note_list(const std::string& commit, std::vector<HubFile> files) const;

  void note_missing(const std::string& commit, const std::string& file) const;

  // Makes the folders for a blob and its lock.
  void prepare() const;
  // Puts the blob into the snapshot: by a link, or without symbolic links by a copy (of a new blob: by moving it).
  void place(const std::string& etag, const std::string& commit, const std::string& file, bool is_new,
             bool copies) const;

 private:
  std::filesystem::path cache_dir_, folder_, locks_;

  std::filesystem::path list_file(const std::string& commit) const { return folder_ / "trees" / (commit + ".json"); }
};

}  // namespace lora
