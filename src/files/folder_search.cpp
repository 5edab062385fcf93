#include "files/folder_search.h"

#include <algorithm>

#include "checkpoints/repository.h"
#include "core/check.h"

namespace lora {

namespace fs = std::filesystem;

fs::path place_of(const fs::path& path) {
  std::error_code error;
  auto place = fs::canonical(path, error);
  return error ? path : place;
}

FolderSearch::FolderSearch(const fs::path& folder) {
  check(fs::is_directory(folder), ErrorKind::not_found, "{}: {}", folder.string(),
        fs::exists(folder) ? "is a file; wanted a folder of LoRAs" : "no such folder");
  enter(folder);
  for (size_t i = 0; i < links_.size(); ++i) enter(links_[i]);
}

void FolderSearch::enter(const fs::path folder) {
  if (!entered_.insert(place_of(folder)).second) return;
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    entries.push_back(at->path());
  if (error)
    notes.push_back(
        fmt::format("{}: cannot be read, so no LoRA was looked for in it: {}", folder.string(), error.message()));
  std::sort(entries.begin(), entries.end());
  for (const auto& entry : entries) {
    std::error_code unreadable;
    if (!fs::is_directory(entry, unreadable)) {
      if (!is_weight_file(entry)) continue;
      if (fs::is_regular_file(entry, unreadable))
        files.push_back(entry);
      else
        notes.push_back(fmt::format("{}: is not a file, or a link to none, so it was passed over", entry.string()));
    } else if (fs::is_symlink(entry, unreadable)) {
      links_.push_back(entry);
    } else {
      enter(entry);
    }
  }
}

}  // namespace lora
