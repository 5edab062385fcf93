#include <algorithm>
#include <set>

#include "core/check.h"
#include "core/text.h"
#include "files/folder_search.h"
#include "files/listing.h"
#include "io/public_call.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

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

// Files that have the name, each once.
class Found {
 public:
  Found(const fs::path& folder, const std::string& name) : folder_(folder), name_(name) {}

  void add(const fs::path& file) {
    if (places_.insert(place_of(file)).second) files_.push_back(file.lexically_relative(folder_).string());
  }
  // Empty for none. Throws Error{usage} for several.
  fs::path only(const char* what, const char* advice) const {
    check(files_.size() <= 1, ErrorKind::usage, "{}: {} LoRAs have the {} \"{}\": {}. {}", folder_.string(),
          files_.size(), what, name_, listing(files_), advice);
    return files_.empty() ? fs::path() : folder_ / files_.front();
  }

 private:
  const fs::path& folder_;
  const std::string& name_;
  std::set<fs::path> places_;
  std::vector<std::string> files_;
};

}  // namespace

NamedLora find_lora(const fs::path& folder, const std::string& name, const fs::path& cache) {
  return public_call([&]() -> NamedLora {
    const FolderSearch search(folder);
    std::vector<std::string> names;
    Found found(folder, name);
    for (const auto& file : search.files) {
      names.push_back(file.stem().string());
      if (has_name(file.lexically_relative(folder), name)) found.add(file);
    }
    constexpr auto kInFull = "Write one of these in full, with \"./\" before it";
    if (auto file = found.only("name", kInFull); !file.empty()) return {file, search.notes};

    auto list = list_files(folder, search, {.cache = cache});
    Found called(folder, name);
    for (const auto& lora : list.loras) {
      if (lora.layers == 0) continue;
      for (const auto& alias : {lora.output_name, lora.title}) {
        if (alias.empty()) continue;
        names.push_back(alias);
        if (alias == name) called.add(lora.file);
      }
    }
    constexpr auto kByFile = "Write the name of one of these files instead";
    if (auto file = called.only("title or output name", kByFile); !file.empty()) return {file, list.notes};

    auto near = nearest(name, names);
    fail(ErrorKind::not_found, "{}: no LoRA named \"{}\" in this folder or below it{}{}", folder.string(), name,
         near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near),
         search.notes.empty() ? "" : "; " + listing(search.notes, 3));
  });
}

}  // namespace lora
