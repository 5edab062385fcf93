#pragma once
// The first LoRA files for Stable Diffusion, cloneofsimo's: factors without names, in the order in which its trainer
// walked the model.
#include <optional>
#include <string>

#include "lora/state_dict.h"

namespace lora {

// The same tensors under the keys of diffusers; nullopt where the file is not of that kind. Both forms are read, the
// list [up, down, up, down, …] and `unet:0:up`. Throws Error{unsupported} for a model whose walk is not known.
std::optional<StateDict> name_positions(const StateDict& file, const std::string& label);

}  // namespace lora
