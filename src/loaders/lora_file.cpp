#include "loaders/lora_file.h"

#include <algorithm>

#include "core/check.h"
#include "core/text.h"
#include "loaders/metadata.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

bool is_pickle(const fs::path& file) {
  auto extension = file.extension();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt";
}

bool is_leftover(const std::string& name) {  // of a training run, beside the weights
  for (const char* word : {"scheduler", "optimizer", "checkpoint"})
    if (name.find(word) != std::string::npos) return true;
  return false;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> peft_folders(const fs::path& folder) {
  std::vector<std::string> found;
  for (const char* component : {"unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"})
    if (fs::exists(folder / component / kAdapterConfig)) found.push_back(component);
  return found;
}

}  // namespace

LoraFile find_lora_file(const fs::path& source, const LoraStateDictOptions& options) {
  check(fs::exists(source), ErrorKind::not_found, "{}: there is no such file or folder", source.string());
  if (!fs::is_directory(source)) return {source, {}, {}};

  auto folder = source / options.subfolder;
  check(fs::is_directory(folder), ErrorKind::not_found, "{}: there is no folder \"{}\" in it", source.string(),
        options.subfolder);
  auto names = names_in(folder);
  if (!options.weight_name.empty()) {
    for (const auto& place : {source / options.weight_name, folder / options.weight_name})
      if (fs::is_regular_file(place)) return {place, {}, {}};
    fail(ErrorKind::not_found, "{}: there is no file \"{}\" in it; there are: {}", folder.string(), options.weight_name,
         listing(names));
  }

  auto candidates = [&](bool pickles) {
    std::vector<std::string> found;
    for (const auto& name : names)
      if (!is_leftover(name) && (pickles ? is_pickle(name) : name.ends_with(".safetensors"))) found.push_back(name);
    // A folder that diffusers wrote says which one it is.
    for (const auto& name : found)
      if (name.starts_with("pytorch_lora_weights.")) return std::vector<std::string>{name};
    return found;
  };
  std::vector<std::string> found;
  if (options.use_safetensors.value_or(true)) found = candidates(/*pickles=*/false);
  if (found.empty() && !options.use_safetensors.value_or(false)) found = candidates(/*pickles=*/true);
  if (found.empty())
    if (auto components = peft_folders(folder); !components.empty()) return {folder, {}, components};
  check(!found.empty(), ErrorKind::not_found, "{}: no LoRA file in this folder; there are: {}", folder.string(),
        names.empty() ? "no files" : listing(names));
  LoraFile file{folder / found.front(), {}, {}};
  if (found.size() > 1)
    file.notes.push_back(
        fmt::format("{} holds {} files that may be LoRAs; {} was taken, weight_name chooses another of: {}",
                    folder.string(), found.size(), found.front(), listing(found)));
  return file;
}

}  // namespace lora
