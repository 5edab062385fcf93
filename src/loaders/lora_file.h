#pragma once
// Which file of a folder is the LoRA.
#include "lora/loaders.h"

namespace lora {

struct LoraFile {
  std::filesystem::path path;
  std::vector<std::string> notes;  // such as what else was there
  // Where PEFT saved a model for each component: the folders of `path` that hold them. Otherwise empty, and path is the
  // file.
  std::vector<std::string> components;
};

// Throws Error{not_found} naming where it looked and what is there.
LoraFile find_lora_file(const std::filesystem::path& source, const LoraStateDictOptions& options);

}  // namespace lora
