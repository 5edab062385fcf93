#pragma once
// The configs that are published with Stable Diffusion's models, with the sizes of given tensors.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "lora/state_dict.h"

namespace lora {

// `tensors` has diffusers' or transformers' names. Throws Error{bad_key} or Error{bad_shape} where a tensor that tells
// a size is missing or has the wrong rank.

// Without attention_head_dim, which no tensor tells.
nlohmann::json unet_config(const StateDict& tensors, int64_t sample_size);
// A UNet's attention_head_dim where each head has 64 channels: which is the number of heads, in spite of its name.
nlohmann::json heads_of_64(const StateDict& unet);
nlohmann::json vae_config(const StateDict& tensors, int64_t sample_size, double scaling_factor);
// `projection_dim` is for text encoders without a projection, whose configs state one nevertheless; others have theirs
// from the tensor.
nlohmann::json clip_config(const StateDict& tensors, const std::string& hidden_act,
                           std::optional<int64_t> projection_dim = {});
nlohmann::json t5_config(const StateDict& tensors);
nlohmann::json sd3_config(const StateDict& tensors);

// The number of n = first, first + 1, … for which `pattern`, its {} filled with n, names a tensor.
int64_t count_blocks(const StateDict& tensors, const std::string& pattern, int64_t first = 0);
// One size of a tensor.
int64_t dimension(const StateDict& tensors, const std::string& name, int64_t dim);

}  // namespace lora
