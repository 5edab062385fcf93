#pragma once
// Finds and opens the files of one component of a pipeline: its config and its weights.
#include <filesystem>
#include <string>
#include <vector>

#include "lora/state_dict.h"

namespace lora {

// The content of the files of one component.
struct Checkpoint {
  std::string config;  // JSON text
  StateDict tensors;
  std::string label;  // the folder or file, for error messages
};

// The names of the weight files of a library, without their endings.
struct WeightFiles {
  const char* safetensors;
  const char* pickle;
};
inline constexpr WeightFiles kDiffusersFiles{"diffusion_pytorch_model", "diffusion_pytorch_model"};
inline constexpr WeightFiles kTransformersFiles{"model", "pytorch_model"};

// The library that has the class: "transformers" or "diffusers".
std::string library_of(const std::string& class_name);
const WeightFiles& weight_files_of(const std::string& class_name);

// Whether a file of a component's folder has weights of it, or lists their shards: in any format and variant.
bool is_weight_file(const std::string& name);

// Chooses the weight file among the names of a component's files: safetensors before pickles, whole before sharded.
// Throws Error{not_found} that lists the files if there are no such weights or no config.json.
std::string choose_weights(const std::vector<std::string>& names, const WeightFiles& files, const std::string& variant,
                           const std::string& label);

// Whether the names of a component's files have weights of that variant.
bool has_variant(const std::vector<std::string>& names, const WeightFiles& files, const std::string& variant);
// The names of the files in a folder, sorted. Empty if there is no such folder.
std::vector<std::string> file_names(const std::filesystem::path& folder);

// The note that a model does not have these tensors. `label` is the folder or file.
std::string note_of_left_out(const std::string& label, const std::vector<std::string>& names);

// The note that a folder is read without the variant, which it does not have.
std::string note_of_no_variant(const std::string& label, const std::string& variant);

// Reads config.json and the weights of one component. Throws as choose_weights() does.
Checkpoint open_component(const std::filesystem::path& folder, const WeightFiles& files,
                          const std::string& variant = "");

}  // namespace lora
