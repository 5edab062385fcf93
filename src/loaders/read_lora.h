#pragma once
// Reading a LoRA for a given pipeline.
#include "loaders/metadata.h"
#include "lora/lora_file.h"

namespace lora {

// As the public one. Keys without a component's name are `denoiser`'s; "" for the component that the file's base model
// has.
LoraFile read_lora(const LoraSource& source, const ReadLoraOptions& options, const std::string& denoiser);

// The LoRA of a file of which load_tensor_sizes() read `sizes`. No layer has a strength. What is not understood is in
// left_out. Throws as the public one.
LoraFile read_lora_sizes(const std::filesystem::path& file, const StateDict& sizes);

// Takes out the layers that have NaN or infinity, also as alpha or scale, with a note. Reads every tensor. Throws
// Error{bad_file} if no layer is left.
void drop_not_finite(LoraFile& file);

// One component's tensors under canonical names, with or without the component's name, and their alphas, as
// lora_state_dict() gives them. `prefix` is the name that the keys have. Throws Error{bad_key} where there are none.
LoraFile lora_file_of(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                      const std::string& prefix, const std::string& component, PartialLora partial);

// Gives the layers the strengths and settings that the metadata says, as far as they do not have their own. `name`:
// where the metadata comes from, for messages.
void apply_configs(LoraFile& file, const std::string& name = kAdapterMetadata);

}  // namespace lora
