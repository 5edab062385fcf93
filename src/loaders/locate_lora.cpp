#include "loaders/locate_lora.h"

#include <algorithm>

#include "checkpoints/repository.h"
#include "core/check.h"
#include "core/text.h"
#include "loaders/metadata.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPeftFolders[] = {"unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"};

bool is_leftover(const std::string& name) {  // of a training run, beside the weights
  for (const char* word : {"scheduler", "optimizer", "checkpoint"})
    if (name.find(word) != std::string::npos) return true;
  return false;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// The files directly in a folder, and PEFT's configs below it.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) names.push_back(entry.path().filename().string());
  for (const char* component : kPeftFolders)
    if (auto config = fs::path(component) / kAdapterConfig; fs::exists(folder / config))
      names.push_back(config.generic_string());
  std::sort(names.begin(), names.end());
  return names;
}

FoundLora find_in_folder(const fs::path& source, const ReadLoraOptions& options, const WantedFiles& files) {
  auto folder = source / options.subfolder;
  check(fs::is_directory(folder), ErrorKind::not_found, "{}: there is no folder \"{}\" in it", source.string(),
        options.subfolder);
  auto names = names_in(folder);
  if (!options.weight_name.empty()) {
    for (const auto& place : {source / options.weight_name, folder / options.weight_name})
      if (fs::is_regular_file(place)) return {place, place.string()};
    fail(ErrorKind::not_found, "{}: there is no file \"{}\" in it; there are: {}", folder.string(), options.weight_name,
         listing(names));
  }
  auto [file, components, notes] = choose_lora(names, options.use_safetensors, folder.string(), files);
  auto path = file.empty() ? folder : folder / file;
  return {path, path.string(), notes, components};
}

// "a/b/" for the folder "a/b", "" for none.
std::string as_prefix(const std::string& folder) {
  return folder.empty() ? "" : (fs::path(folder) / "").lexically_normal().generic_string();
}

FoundLora find_in_repository(const std::string& repo_id, const ReadLoraOptions& options, const WantedFiles& files) {
  Repository repository(repo_id, options.hub);
  const auto& all = repository.files;
  auto folder = as_prefix(options.subfolder);
  auto label = [&](const std::string& name) {
    return name.empty() ? repository.label : repository.label + ": " + name;
  };
  LoraChoice choice{.file = options.weight_name};
  if (options.weight_name.empty()) {
    auto names = names_below(all, folder);
    check(folder.empty() || !names.empty(), ErrorKind::not_found, "{}: there is no folder \"{}\" in it; there are: {}",
          repository.label, options.subfolder, listing(all));
    choice = choose_lora(names, options.use_safetensors, label(options.subfolder), files);
  } else if (!contains(all, folder + options.weight_name) && contains(all, options.weight_name)) {
    folder.clear();
  }

  std::vector<std::string> wanted;
  auto want = [&](const std::string& file) {
    wanted.push_back(file);
    auto config = (fs::path(file).parent_path() / kAdapterConfig).generic_string();
    if (contains(all, config)) wanted.push_back(config);
  };
  if (!choice.file.empty()) want(folder + choice.file);
  for (const auto& component : choice.components) {
    auto inside = folder + component + "/";
    want(inside + choose_lora(names_below(all, inside), {}, label(inside)).file);
  }
  auto name = folder + choice.file;
  FoundLora found{repository.snapshot.fetch(wanted) / name, label(name), choice.notes, choice.components};
  if (const auto& why = repository.snapshot.note(); !why.empty())
    found.notes.push_back(fmt::format("the Hub could not be asked ({}); what the cache has of commit {} was loaded",
                                      why, repository.snapshot.commit()));
  return found;
}

}  // namespace

std::span<const char* const> peft_components() { return kPeftFolders; }

LoraChoice choose_lora(std::vector<std::string> names, std::optional<bool> use_safetensors, const std::string& label,
                       const WantedFiles& wanted) {
  std::sort(names.begin(), names.end());
  auto candidates = [&](bool pickles) {
    std::vector<std::string> found;
    for (const auto& name : names) {
      if (name.find('/') != name.npos || is_leftover(name)) continue;
      if (pickles ? is_pickle(name) : is_safetensors(name)) found.push_back(name);
    }
    // A folder that diffusers wrote says which one it is.
    for (const auto& name : found)
      if (name.starts_with(wanted.first)) return std::vector<std::string>{name};
    return found;
  };
  std::vector<std::string> found;
  if (use_safetensors.value_or(true)) found = candidates(/*pickles=*/false);
  if (found.empty() && !use_safetensors.value_or(false)) found = candidates(/*pickles=*/true);
  if (found.empty()) {
    LoraChoice peft;
    for (const char* component : kPeftFolders)
      if (wanted.peft && contains(names, fmt::format("{}/{}", component, kAdapterConfig)))
        peft.components.push_back(component);
    check(!peft.components.empty(), ErrorKind::not_found, "{}: no {} file in this folder; there are: {}", label,
          wanted.noun, names.empty() ? "no files" : listing(names));
    return peft;
  }
  LoraChoice choice{.file = found.front()};
  if (found.size() > 1)
    choice.notes.push_back(
        fmt::format("{} holds {} files that may be {}s; {} was taken, weight_name chooses another of: {}", label,
                    found.size(), wanted.noun, found.front(), listing(found)));
  return choice;
}

FoundLora locate_lora(const LoraSource& from, const ReadLoraOptions& options, const WantedFiles& wanted) {
  const auto& source = *from.path();
  if (from.is_repository()) return find_in_repository(source.string(), options, wanted);
  check(fs::exists(source), ErrorKind::not_found, "{}: there is no such file or folder; {}", source.string(),
        why_only_a_path(source));
  if (!fs::is_directory(source)) return {source, source.string()};
  return find_in_folder(source, options, wanted);
}

}  // namespace lora
