#pragma once
// Reading a LoRA for a given pipeline.
#include "lora/lora_file.h"

namespace lora {

// As the public one. Keys without a component's name are `denoiser`'s; "" for the component that the file's base model
// has.
LoraFile read_lora(const LoraSource& source, const ReadLoraOptions& options, const std::string& denoiser);

// One component's tensors under canonical names, with or without the component's name, and their alphas, as
// lora_state_dict() gives them. `prefix` is the name that the keys have. Throws Error{bad_key} where there are none.
LoraFile lora_file_of(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                      const std::string& prefix, const std::string& component);

// Gives the layers the strengths and settings that the metadata says, as far as they do not have their own.
void apply_configs(LoraFile& file);

}  // namespace lora
