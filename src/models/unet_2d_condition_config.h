#pragma once
// The config.json of a UNet2DConditionModel, worked out into what every part of the network needs to know.
#include <optional>
#include <string>
#include <vector>

#include "models/unet_2d_blocks.h"
#include "nn/elementwise.h"

namespace lora {

struct UNet2DConditionConfig {
  int64_t in_channels, out_channels, sample_size;  // sample_size is 0 where the config has none
  int64_t conv_in_kernel, conv_out_kernel;
  int64_t context_channels;  // of what cross-attention attends to
  bool center_input_sample;

  bool flip_sin_to_cos;  // of the timestep's sinusoids
  double freq_shift;
  int64_t time_channels;       // of the timestep's sinusoids
  int64_t time_embed_dim;      // of what they become
  int64_t time_cond_proj_dim;  // 0 for none
  Activation act;
  std::optional<Activation> timestep_post_act, time_embedding_act;

  // Pooled text and image sizes, as SDXL is told them: 0 for models that are not.
  int64_t addition_time_embed_dim, projection_class_embeddings_input_dim;

  ResnetSettings resnet, mid_resnet;
  int64_t downsample_padding;
  std::vector<StageSettings> down, up;  // in the order that they run in
  std::optional<StageSettings> mid;

  // Throws Error{unsupported} naming the field for a value that this network cannot have or a field that it does not
  // know, Error{bad_file} for a config that makes no sense.
  static UNet2DConditionConfig parse(const std::string& json, const std::string& label);
};

}  // namespace lora
