#pragma once
// What was read of files, kept between two lists.
#include <array>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "lora/lora_folder.h"

namespace lora {

// A file's state, as far as it changes what is read of it.
struct FileStamp {
  uint64_t size = 0;
  int64_t modified = 0;  // nanoseconds since 1970
  // The same of PEFT's config beside the file, which says what the file is too; -1 where there is none.
  int64_t config_size = -1, config_modified = -1;

  std::chrono::system_clock::time_point time() const;
  // Whether the file may change once more without a change of this.
  bool is_too_new() const;
};
// Follows links. Nothing where the file is gone.
std::optional<FileStamp> stamp_of(const std::filesystem::path& file);

// A file of CBOR, whose texts may have any bytes. Problems with it go to `notes`, and nothing fails. Threads: find()
// may run on several threads at once.
class ListingCache {
 public:
  // An empty path: no cache.
  ListingCache(std::filesystem::path path, std::vector<std::string>& notes);

  // What was read of the file while it had this stamp.
  std::optional<ListedLora> find(const std::string& file, const FileStamp& stamp) const;
  void put(const std::string& file, const FileStamp& stamp, const ListedLora& row);
  // Writes it if it changed. Of the files below `folder` it keeps those in `seen` only. What other processes wrote
  // since it was read stays. If two write at once, files of one are read again later.
  void save(const std::string& folder, const std::set<std::string>& seen);

 private:
  std::filesystem::path path_;
  std::vector<std::string>& notes_;
  nlohmann::json files_, added_;  // by path: {"stamp": […], "row": {…}}
};

}  // namespace lora
