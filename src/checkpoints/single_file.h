#pragma once
// Whole pipelines in one file, in the layouts of the original publishers: Stable Diffusion 1.x, 2.x, XL and 3.
#include <filesystem>
#include <map>
#include <string>

#include "checkpoints/component_files.h"

namespace lora {

struct SingleFile {
  std::string pipeline_class;  // diffusers' name
  // By the names of the components in the pipeline. Tensors have the names of diffusers and transformers. A VAE and
  // text encoders that the file does not have are left out.
  std::map<std::string, Checkpoint> components;
  std::string scheduler_config;    // JSON text
  std::vector<std::string> notes;  // what the caller should know
};

// Opens a checkpoint and splits it into components. Settings that a file does not have (heads, scheduler, prediction
// type) are those of the published model from which it is derived. Tensors are views of those of the file. Only the
// modulation of the last layers of Stable Diffusion 3 is copied, because its order changes. EMA weights and training
// buffers are ignored. Other tensors that no network of the family has are a note. Throws what load_state_dict()
// throws. Throws Error{unsupported} for another kind of file, and names the kind. Throws Error{not_found} if a
// component is missing.
SingleFile open_single_file(const std::filesystem::path& file);

// The same for the tensors of such a file. `label` is the name of the file in error messages.
SingleFile split_single_file(const StateDict& tensors, const std::string& label);

}  // namespace lora
