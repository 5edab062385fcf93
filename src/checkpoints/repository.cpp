#include "checkpoints/repository.h"

#include <algorithm>
#include <cctype>

#include "core/check.h"

namespace lora {

namespace fs = std::filesystem;

static bool ends_in(const fs::path& file, std::initializer_list<std::string_view> endings) {
  auto ending = file.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  return std::find(endings.begin(), endings.end(), ending) != endings.end();
}

bool is_pickle(const fs::path& file) { return ends_in(file, {".bin", ".pt", ".pth", ".ckpt"}); }
bool is_safetensors(const fs::path& file) { return ends_in(file, {".safetensors"}); }
bool is_weight_file(const fs::path& file) {
  return is_pickle(file) || is_safetensors(file) || ends_in(file, {".gguf"});
}

bool is_repository(const fs::path& source) {
  std::error_code error;
  return is_repo_id(source.string()) && !is_weight_file(source) && !fs::exists(source, error) &&
         !fs::is_directory(source.parent_path(), error);
}

std::string why_only_a_path(const fs::path& source) {
  const auto text = source.string();
  std::error_code error;
  if (!is_repo_id(text) || is_weight_file(source) || !fs::is_directory(source.parent_path(), error))
    return kRepositoryForm;
  return fmt::format(
      "the Hub was not asked, because the folder \"{}\" is here; for the repository, use "
      "LoraSource::repository(\"{}\"), "
      "or `lora download {}` and its folder",
      source.parent_path().string(), text, text);
}

Repository::Repository(const std::string& id, const HubOptions& options) try
    : repo_id(id),
      snapshot(id, options),
      files(snapshot.files()),
      label(fmt::format("{}@{:.7}{}", id, snapshot.commit(), snapshot.listed() ? "" : " in the cache")) {
} catch (const Error& error) {  // the members are gone here
  if (!is_repository(id)) fail(error.kind(), "{}: as a repository on the Hub: {}", id, error.what());
  fail(error.kind(),
       "{}: there is no such file or folder here; as a repository on the Hub: {}; a path can be written \"./{}\"", id,
       error.what(), id);
}

std::vector<std::string> names_below(const std::vector<std::string>& names, const std::string& folder) {
  std::vector<std::string> below;
  for (const auto& name : names)
    if (name.starts_with(folder)) below.push_back(name.substr(folder.size()));
  return below;
}

}  // namespace lora
