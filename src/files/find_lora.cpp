#include <algorithm>
#include <set>

#include "checkpoints/repository.h"
#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "lora/files.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

fs::path place_of(const fs::path& path) {
  std::error_code error;
  auto place = fs::canonical(path, error);
  return error ? path : place;
}

// The LoRA files in a folder and below it. Links to folders come last, so that a folder has the name of its own place.
class Search {
 public:
  explicit Search(const fs::path& folder) {
    enter(folder);
    for (size_t i = 0; i < links_.size(); ++i) enter(links_[i]);
  }

  std::vector<fs::path> files;
  std::vector<std::string> notes;

 private:
  std::set<fs::path> entered_;
  std::vector<fs::path> links_;

  void enter(const fs::path folder) {
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
        if (is_weight_file(entry) && fs::is_regular_file(entry, unreadable)) files.push_back(entry);
      } else if (fs::is_symlink(entry, unreadable)) {
        links_.push_back(entry);
      } else {
        enter(entry);
      }
    }
  }
};

// Whether the last parts of a file's path are the parts of a name, or for "./name" all parts. The file's ending may be
// left out.
bool has_name(const fs::path& file, const std::string& name) {
  const auto normal = fs::path(name).lexically_normal();
  const std::vector<fs::path> wanted(normal.begin(), normal.end());
  for (const auto& path : {file, file.parent_path() / file.stem()}) {
    const std::vector<fs::path> parts(path.begin(), path.end());
    if (wanted.empty() || wanted.size() > parts.size()) continue;
    if (name.starts_with("./") && wanted.size() < parts.size()) continue;
    if (std::equal(wanted.rbegin(), wanted.rend(), parts.rbegin())) return true;
  }
  return false;
}

}  // namespace

NamedLora find_lora(const fs::path& folder, const std::string& name) {
  return edge([&]() -> NamedLora {
    check(fs::is_directory(folder), ErrorKind::not_found, "{}: no such folder", folder.string());
    const Search search(folder);
    std::vector<std::string> names, found;
    std::set<fs::path> places;
    for (const auto& file : search.files) {
      const auto inside = file.lexically_relative(folder);
      names.push_back(file.stem().string());
      if (has_name(inside, name) && places.insert(place_of(file)).second) found.push_back(inside.string());
    }
    check(found.size() <= 1, ErrorKind::usage,
          "{}: {} LoRAs have the name \"{}\": {}. Write one of these in full, with \"./\" before it", folder.string(),
          found.size(), name, listing(found));
    if (!found.empty()) return {folder / found.front(), search.notes};
    auto near = nearest(name, names);
    fail(ErrorKind::not_found, "{}: no LoRA named \"{}\" in this folder or below it{}{}", folder.string(), name,
         near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near),
         search.notes.empty() ? "" : "; " + listing(search.notes, 3));
  });
}

}  // namespace lora
