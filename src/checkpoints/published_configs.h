#pragma once
// The configs of the published Stable Diffusion models, with sizes from given tensors.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "lora/state_dict.h"

namespace lora {

// `tensors` has the names of diffusers or transformers. Throws Error{bad_key} or Error{bad_shape} if a tensor that
// gives a size is missing or has too few dimensions.

// The config does not contain attention_head_dim, because no tensor gives it.
nlohmann::json unet_config(const StateDict& tensors, int64_t sample_size);
// The attention_head_dim of a UNet whose heads have 64 channels. In spite of its name, the field is the number of
// heads.
nlohmann::json heads_of_64(const StateDict& unet);
// `pipeline` is the class that runs the family: "StableDiffusionPipeline", …
nlohmann::json vae_config(std::string_view pipeline, const StateDict& tensors);
// Give `projection_dim` for a text encoder without a projection, because its config has this field too. For the others,
// the value comes from the tensor.
nlohmann::json clip_config(const StateDict& tensors, const std::string& hidden_act,
                           std::optional<int64_t> projection_dim = {});
// The widths of OpenCLIP's text encoders: ViT-H of Stable Diffusion 2, ViT-bigG of SDXL.
inline constexpr int64_t kOpenClipHWidth = 1024, kOpenClipGWidth = 1280;
nlohmann::json t5_config(const StateDict& tensors);
nlohmann::json sd3_config(const StateDict& tensors);

// Counts the consecutive n = first, first + 1, … for which `pattern`, with n instead of {}, is the name of a tensor.
int64_t count_blocks(const StateDict& tensors, const std::string& pattern, int64_t first = 0);
// The size of dimension `dim` of a tensor.
int64_t dimension(const StateDict& tensors, const std::string& name, int64_t dim);

}  // namespace lora
