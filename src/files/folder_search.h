#pragma once
// The walk through a folder of LoRAs.
#include <filesystem>
#include <set>
#include <string>
#include <vector>

namespace lora {

// The path without links; the path itself where that cannot be told.
std::filesystem::path place_of(const std::filesystem::path& path);

// The weight files in a folder and below it. Each folder is searched once. Links to folders come last, so that a folder
// has the name of its own place. Throws Error{not_found} if there is no such folder.
class FolderSearch {
 public:
  explicit FolderSearch(const std::filesystem::path& folder);

  std::vector<std::filesystem::path> files;
  std::vector<std::string> notes;  // folders that cannot be read, and weight files that are none

 private:
  std::set<std::filesystem::path> entered_;
  std::vector<std::filesystem::path> links_;

  void enter(const std::filesystem::path folder);
};

}  // namespace lora
