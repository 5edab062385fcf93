#include "models/ldm_config.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"

namespace lora {

using nlohmann::json;

namespace {

int64_t size(const StateDict& tensors, const std::string& name, int64_t dim) {
  const auto& t = tensors.at(name);
  check(t.dim() > dim, ErrorKind::bad_shape, "{} has shape {}, too few dimensions", name, c10::str(t.sizes()));
  return t.size(dim);
}

std::vector<int64_t> sizes(const StateDict& tensors, const std::string& pattern, int64_t blocks) {
  std::vector<int64_t> result;
  for (int64_t i = 0; i < blocks; ++i)
    result.push_back(size(tensors, replace_all(pattern, "{}", std::to_string(i)), 0));
  return result;
}

}  // namespace

int64_t count_blocks(const StateDict& tensors, const std::string& pattern, int64_t first) {
  int64_t n = 0;
  while (tensors.contains(replace_all(pattern, "{}", std::to_string(first + n)))) ++n;
  return n;
}

std::string ldm_unet_config(const StateDict& tensors, const LdmKind& kind) {
  auto levels = count_blocks(tensors, "down_blocks.{}.resnets.0.conv1.weight");
  auto channels = sizes(tensors, "down_blocks.{}.resnets.0.conv1.weight", levels);
  const std::string kContext = ".attentions.0.transformer_blocks.0.attn2.to_k.weight";
  auto down_types = json::array(), up_types = json::array(), heads = json::array();
  for (int64_t i = 0; i < levels; ++i) {
    auto level = std::to_string(i) + kContext;
    down_types.push_back(tensors.contains("down_blocks." + level) ? "CrossAttnDownBlock2D" : "DownBlock2D");
    up_types.push_back(tensors.contains("up_blocks." + level) ? "CrossAttnUpBlock2D" : "UpBlock2D");
    heads.push_back(std::max<int64_t>(1, channels[i] / 64));
  }
  json config = {
      {"_class_name", "UNet2DConditionModel"},
      {"act_fn", "silu"},
      {"attention_head_dim", kind.v2 ? heads : json(8)},  // which is the number of heads, in spite of its name
      {"block_out_channels", channels},
      {"center_input_sample", false},
      {"cross_attention_dim", size(tensors, "mid_block" + kContext, 1)},
      {"down_block_types", down_types},
      {"downsample_padding", 1},
      {"flip_sin_to_cos", true},
      {"freq_shift", 0},
      {"in_channels", size(tensors, "conv_in.weight", 1)},
      {"layers_per_block", count_blocks(tensors, "down_blocks.0.resnets.{}.conv1.weight")},
      {"mid_block_scale_factor", 1},
      {"norm_eps", 1e-5},
      {"norm_num_groups", 32},
      {"out_channels", size(tensors, "conv_out.weight", 0)},
      {"sample_size", kind.v_prediction ? 96 : 64},
      {"up_block_types", up_types},
  };
  if (kind.v2) config["use_linear_projection"] = tensors.at("mid_block.attentions.0.proj_in.weight").dim() == 2;
  if (kind.v_prediction) config["upcast_attention"] = true;
  return config.dump(2);
}

std::string ldm_vae_config(const StateDict& tensors, const LdmKind& kind) {
  auto levels = count_blocks(tensors, "encoder.down_blocks.{}.resnets.0.conv1.weight");
  json config = {
      {"_class_name", "AutoencoderKL"},
      {"act_fn", "silu"},
      {"block_out_channels", sizes(tensors, "encoder.down_blocks.{}.resnets.0.conv1.weight", levels)},
      {"down_block_types", std::vector<std::string>(levels, "DownEncoderBlock2D")},
      {"in_channels", size(tensors, "encoder.conv_in.weight", 1)},
      {"latent_channels", size(tensors, "decoder.conv_in.weight", 1)},
      {"layers_per_block", count_blocks(tensors, "encoder.down_blocks.0.resnets.{}.conv1.weight")},
      {"norm_num_groups", 32},
      {"out_channels", size(tensors, "decoder.conv_out.weight", 0)},
      {"sample_size", kind.v_prediction ? 768 : 512},
      {"scaling_factor", 0.18215},
      {"up_block_types", std::vector<std::string>(levels, "UpDecoderBlock2D")},
  };
  return config.dump(2);
}

std::string ldm_text_encoder_config(const StateDict& tensors, const LdmKind& kind) {
  auto hidden = size(tensors, "text_model.embeddings.token_embedding.weight", 1);
  json config = {
      {"architectures", {"CLIPTextModel"}},
      {"attention_dropout", 0.0},
      {"bos_token_id", 0},
      {"eos_token_id", 2},
      {"hidden_act", kind.v2 ? "gelu" : "quick_gelu"},
      {"hidden_size", hidden},
      {"intermediate_size", size(tensors, "text_model.encoder.layers.0.mlp.fc1.weight", 0)},
      {"layer_norm_eps", 1e-5},
      {"max_position_embeddings", size(tensors, "text_model.embeddings.position_embedding.weight", 0)},
      {"model_type", "clip_text_model"},
      {"num_attention_heads", std::max<int64_t>(1, hidden / 64)},
      {"num_hidden_layers", count_blocks(tensors, "text_model.encoder.layers.{}.mlp.fc1.weight")},
      {"pad_token_id", 1},
      {"projection_dim", kind.v2 ? 512 : 768},
      {"vocab_size", size(tensors, "text_model.embeddings.token_embedding.weight", 0)},
  };
  return config.dump(2);
}

std::string ldm_scheduler_config(const LdmKind& kind) {
  // As published with each model: 1.x and the 512-pixel 2.x start from PNDM, the others from DDIM.
  bool ddim = kind.v2 ? kind.v_prediction : kind.inpainting;
  json config = {
      {"_class_name", ddim ? "DDIMScheduler" : "PNDMScheduler"},
      {"beta_end", 0.012},
      {"beta_schedule", "scaled_linear"},
      {"beta_start", 0.00085},
      {"clip_sample", false},
      {"num_train_timesteps", 1000},
      {"prediction_type", kind.v_prediction ? "v_prediction" : "epsilon"},
      {"set_alpha_to_one", false},
      {"steps_offset", 1},
      {"trained_betas", nullptr},
  };
  if (!ddim) config["skip_prk_steps"] = true, config.erase("clip_sample");
  return config.dump(2);
}

}  // namespace lora
