#pragma once
// The config.json of a UNet2DConditionModel, resolved to the settings of each part of the network.
#include <optional>
#include <string>
#include <vector>

#include "models/unet_2d_blocks.h"
#include "nn/elementwise.h"

namespace lora {

struct UNet2DConditionConfig {
  int64_t in_channels, out_channels, sample_size;  // sample_size is 0 if the config does not have it
  int64_t conv_in_kernel, conv_out_kernel;
  int64_t context_channels;  // of the input of cross-attention
  bool center_input_sample;

  bool flip_sin_to_cos;  // of the timestep's sinusoids
  double freq_shift;
  int64_t time_channels;       // of the timestep's sinusoids
  int64_t time_embed_dim;      // of the embedding made from them
  int64_t time_cond_proj_dim;  // 0 for none
  Activation act;
  std::optional<Activation> timestep_post_act, time_embedding_act;

  // For the pooled text and the image sizes of SDXL; 0 for other models.
  int64_t addition_time_embed_dim, projection_class_embeddings_input_dim;

  ResnetSettings resnet, mid_resnet;
  int64_t downsample_padding;
  std::vector<StageSettings> down, up;  // in the order of execution
  std::optional<StageSettings> mid;

  // Throws Error{unsupported} that names a field that is unknown or has a value that is not supported. Throws
  // Error{bad_file} for a config that is not valid.
  static UNet2DConditionConfig parse(const std::string& json, const std::string& label);
};

}  // namespace lora
