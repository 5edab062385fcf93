#pragma once
// Which file of a folder, or of a repository on the Hub, is the LoRA or the textual inversion.
#include <span>

#include "lora/lora_options.h"

namespace lora {

struct FoundLora {
  std::filesystem::path path;
  std::string label;               // for messages: the path, or the repository and the name in it
  std::vector<std::string> notes;  // such as what else was there
  // Where PEFT saved a model for each component: the folders of `path` that hold them. Otherwise empty, and path is the
  // file.
  std::vector<std::string> components;
};

// What is looked for.
struct WantedFiles {
  std::string_view noun;   // "LoRA"
  std::string_view first;  // how the file begins that diffusers writes
  bool peft;               // whether PEFT's folders of components may stand for it
};
inline constexpr WantedFiles kLoraFiles{"LoRA", "pytorch_lora_weights.", true};
inline constexpr WantedFiles kTextualInversionFiles{"textual inversion", "learned_embeds.", false};

// The components that may have a folder of PEFT's.
std::span<const char* const> peft_components();

// A repository's file is in the cache then, with what else is read with it. Throws Error{not_found} naming where it
// looked and what is there.
FoundLora locate_lora(const LoraSource& source, const ReadLoraOptions& options, const WantedFiles& wanted = kLoraFiles);

// The file, or the components' folders, among the names of a folder's files and of those below it.
struct LoraChoice {
  std::string file;
  std::vector<std::string> components, notes;
};
LoraChoice choose_lora(std::vector<std::string> names, std::optional<bool> use_safetensors, const std::string& label,
                       const WantedFiles& wanted = kLoraFiles);

}  // namespace lora
