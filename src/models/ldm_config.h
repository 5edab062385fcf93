#pragma once
// The configs that diffusers publishes for Stable Diffusion 1.x and 2.x, with the sizes of given tensors.
#include <string>

#include "lora/state_dict.h"

namespace lora {

// Which of the published models a checkpoint is a relative of.
struct LdmKind {
  bool v2 = false;            // OpenCLIP text encoder, heads of 64 channels
  bool v_prediction = false;  // predicts velocity, at 768 pixels
  bool inpainting = false;    // nine input channels
};

// JSON texts. `tensors` has diffusers' (for the text encoder transformers') names. Throws Error{bad_key} or
// Error{bad_shape} where a tensor that tells a size is missing or has the wrong rank.
std::string ldm_unet_config(const StateDict& tensors, const LdmKind& kind);
std::string ldm_vae_config(const StateDict& tensors, const LdmKind& kind);
std::string ldm_text_encoder_config(const StateDict& tensors, const LdmKind& kind);
std::string ldm_scheduler_config(const LdmKind& kind);

// The number of n = first, first + 1, … for which `pattern`, its {} filled with n, names a tensor.
int64_t count_blocks(const StateDict& tensors, const std::string& pattern, int64_t first = 0);

}  // namespace lora
