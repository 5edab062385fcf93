#pragma once
// Single-file checkpoints in the layout of the original Stable Diffusion code, versions 1.x and 2.x.
#include <filesystem>
#include <string>

#include "models/loading.h"

namespace lora {

struct LdmCheckpoint {
  Checkpoint unet, vae, text_encoder;  // under diffusers' and transformers' names
  std::string scheduler_config;        // JSON text
};

// Every tensor is a view of the file's: nothing is copied. What the file does not say (heads, scheduler, prediction
// type) is as diffusers' from_single_file has it; for 2.x that is velocity at 768 pixels, unless the file's metadata
// or its step counter tells that it is a model of the 512-pixel kind. EMA weights and training buffers are passed over.
// Throws what load_state_dict() does, Error{unsupported} that says what another kind of file looks like, and
// Error{bad_key} naming tensors that no model takes.
LdmCheckpoint open_ldm_checkpoint(const std::filesystem::path& file);

// The same from the tensors of such a file; `label` names it in messages.
LdmCheckpoint split_ldm_checkpoint(const StateDict& tensors, const std::string& label);

}  // namespace lora
