#pragma once
// Whole pipelines in one file, in the layouts of the models' first publishers: Stable Diffusion 1.x, 2.x, XL and 3.
#include <filesystem>
#include <map>
#include <string>

#include "checkpoints/component_files.h"

namespace lora {

struct SingleFile {
  std::string pipeline_class;  // diffusers' name
  // By their names in the pipeline, under diffusers' and transformers' tensor names. Text encoders of Stable
  // Diffusion 3 that the file does not have are not here.
  std::map<std::string, Checkpoint> components;
  std::string scheduler_config;  // JSON text
};

// What the file does not say (heads, scheduler, prediction type) is as published with the model that it is a relative
// of. Every tensor is a view of the file's, but for what Stable Diffusion 3 stores in another order (the modulation of
// the last layers), which is copied. EMA weights and training buffers are passed over. Throws what load_state_dict()
// does, Error{unsupported} that says what another kind of file looks like, Error{not_found} for a checkpoint that lacks
// a part, and Error{bad_key} naming tensors that no model takes.
SingleFile open_single_file(const std::filesystem::path& file);

// The same from the tensors of such a file; `label` names it in messages.
SingleFile split_single_file(const StateDict& tensors, const std::string& label);

}  // namespace lora
