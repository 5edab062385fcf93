#include "checkpoints/published_configs.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/check.h"
#include "core/text.h"

namespace lora {

using nlohmann::json;

namespace {

constexpr auto kDownChannels = "down_blocks.{}.resnets.0.conv1.weight";

std::vector<int64_t> dimensions(const StateDict& tensors, const std::string& pattern) {
  std::vector<int64_t> result;
  for (int64_t i = 0, blocks = count_blocks(tensors, pattern); i < blocks; ++i)
    result.push_back(dimension(tensors, replace_all(pattern, "{}", std::to_string(i)), 0));
  return result;
}

// At least 1. The model reports sizes that are not valid.
int64_t heads(int64_t channels) { return std::max<int64_t>(1, channels / 64); }

// The number of transformer blocks in each attention, by level. One number if all levels with attention have the same.
json transformer_layers(const StateDict& tensors, int64_t levels) {
  std::vector<int64_t> depths;
  for (int64_t i = 0; i < levels; ++i) {
    // The last number is also that of the middle. The last level may not have attention.
    auto block = i + 1 < levels ? "down_blocks." + std::to_string(i) : "mid_block";
    depths.push_back(count_blocks(tensors, block + ".attentions.0.transformer_blocks.{}.norm1.weight"));
  }
  std::set<int64_t> given(depths.begin(), depths.end());
  given.erase(0);
  if (given.size() == 1) return *given.begin();
  for (auto& depth : depths) depth = std::max<int64_t>(1, depth);
  return depths;
}

}  // namespace

int64_t count_blocks(const StateDict& tensors, const std::string& pattern, int64_t first) {
  int64_t n = 0;
  while (tensors.contains(replace_all(pattern, "{}", std::to_string(first + n)))) ++n;
  return n;
}

int64_t dimension(const StateDict& tensors, const std::string& name, int64_t dim) {
  const auto& t = tensors.at(name);
  check(t.dim() > dim, ErrorKind::bad_shape, "{} has shape {}; it has too few dimensions", name, c10::str(t.sizes()));
  return t.size(dim);
}

json heads_of_64(const StateDict& unet) {
  auto result = json::array();
  for (auto channels : dimensions(unet, kDownChannels)) result.push_back(heads(channels));
  return result;
}

json unet_config(const StateDict& tensors, int64_t sample_size) {
  auto channels = dimensions(tensors, kDownChannels);
  const auto levels = static_cast<int64_t>(channels.size());
  const std::string kContext = ".attentions.0.transformer_blocks.0.attn2.to_k.weight";
  auto down_types = json::array(), up_types = json::array();
  for (int64_t i = 0; i < levels; ++i) {
    auto level = std::to_string(i) + kContext;
    down_types.push_back(tensors.contains("down_blocks." + level) ? "CrossAttnDownBlock2D" : "DownBlock2D");
    up_types.push_back(tensors.contains("up_blocks." + level) ? "CrossAttnUpBlock2D" : "UpBlock2D");
  }
  json config = {
      {"_class_name", "UNet2DConditionModel"},
      {"act_fn", "silu"},
      {"block_out_channels", channels},
      {"center_input_sample", false},
      {"cross_attention_dim", dimension(tensors, "mid_block" + kContext, 1)},
      {"down_block_types", down_types},
      {"downsample_padding", 1},
      {"flip_sin_to_cos", true},
      {"freq_shift", 0},
      {"in_channels", dimension(tensors, "conv_in.weight", 1)},
      {"layers_per_block", count_blocks(tensors, "down_blocks.0.resnets.{}.conv1.weight")},
      {"mid_block_scale_factor", 1},
      {"norm_eps", 1e-5},
      {"norm_num_groups", 32},
      {"out_channels", dimension(tensors, "conv_out.weight", 0)},
      {"sample_size", sample_size},
      {"up_block_types", up_types},
  };
  if (tensors.at("mid_block.attentions.0.proj_in.weight").dim() == 2) config["use_linear_projection"] = true;
  if (auto depths = transformer_layers(tensors, levels); depths != 1) config["transformer_layers_per_block"] = depths;
  if (tensors.contains("add_embedding.linear_1.weight"))
    config.update({{"addition_embed_type", "text_time"},
                   {"addition_time_embed_dim", 256},
                   {"projection_class_embeddings_input_dim", dimension(tensors, "add_embedding.linear_1.weight", 1)}});
  return config;
}

json vae_config(std::string_view pipeline, const StateDict& tensors) {
  auto channels = dimensions(tensors, std::string("encoder.") + kDownChannels);
  json config = {
      {"_class_name", "AutoencoderKL"},
      {"act_fn", "silu"},
      {"block_out_channels", channels},
      {"down_block_types", std::vector<std::string>(channels.size(), "DownEncoderBlock2D")},
      {"in_channels", dimension(tensors, "encoder.conv_in.weight", 1)},
      {"latent_channels", dimension(tensors, "decoder.conv_in.weight", 1)},
      {"layers_per_block", count_blocks(tensors, "encoder.down_blocks.0.resnets.{}.conv1.weight")},
      {"norm_num_groups", 32},
      {"out_channels", dimension(tensors, "decoder.conv_out.weight", 0)},
      {"sample_size", pipeline == "StableDiffusionPipeline" ? 512 : 1024},
      {"scaling_factor", 0.18215},
      {"up_block_types", std::vector<std::string>(channels.size(), "UpDecoderBlock2D")},
  };
  if (pipeline == "StableDiffusionXLPipeline") config.update({{"force_upcast", true}, {"scaling_factor", 0.13025}});
  if (pipeline == "StableDiffusion3Pipeline")
    config.update({{"force_upcast", true},
                   {"scaling_factor", 1.5305},
                   {"shift_factor", 0.0609},
                   {"use_post_quant_conv", tensors.contains("post_quant_conv.weight")},
                   {"use_quant_conv", tensors.contains("quant_conv.weight")}});
  return config;
}

json clip_config(const StateDict& tensors, const std::string& hidden_act, std::optional<int64_t> projection_dim) {
  auto hidden = dimension(tensors, "text_model.embeddings.token_embedding.weight", 1);
  auto architecture = projection_dim ? "CLIPTextModel" : "CLIPTextModelWithProjection";
  return {
      {"architectures", json::array({architecture})},
      {"attention_dropout", 0.0},
      {"bos_token_id", 0},
      {"eos_token_id", 2},
      {"hidden_act", hidden_act},
      {"hidden_size", hidden},
      {"intermediate_size", dimension(tensors, "text_model.encoder.layers.0.mlp.fc1.weight", 0)},
      {"layer_norm_eps", 1e-5},
      {"max_position_embeddings", dimension(tensors, "text_model.embeddings.position_embedding.weight", 0)},
      {"model_type", "clip_text_model"},
      {"num_attention_heads", heads(hidden)},
      {"num_hidden_layers", count_blocks(tensors, "text_model.encoder.layers.{}.mlp.fc1.weight")},
      {"pad_token_id", 1},
      {"projection_dim", projection_dim ? *projection_dim : dimension(tensors, "text_projection.weight", 0)},
      {"vocab_size", dimension(tensors, "text_model.embeddings.token_embedding.weight", 0)},
  };
}

json t5_config(const StateDict& tensors) {
  const std::string kAttention = "encoder.block.0.layer.0.SelfAttention.",
                    kMlp = "encoder.block.0.layer.1.DenseReluDense.", kTokens = "encoder.embed_tokens.weight";
  auto heads = std::max<int64_t>(1, dimension(tensors, kAttention + "relative_attention_bias.weight", 1));
  const bool gated = tensors.contains(kMlp + "wi_0.weight");
  return {
      {"architectures", json::array({"T5EncoderModel"})},
      {"d_ff", dimension(tensors, kMlp + (gated ? "wi_0.weight" : "wi.weight"), 0)},
      {"d_kv", dimension(tensors, kAttention + "q.weight", 0) / heads},
      {"d_model", dimension(tensors, kAttention + "q.weight", 1)},
      {"feed_forward_proj", gated ? "gated-gelu" : "relu"},
      {"is_encoder_decoder", true},
      {"layer_norm_epsilon", 1e-6},
      {"model_type", "t5"},
      {"num_heads", heads},
      {"num_layers", count_blocks(tensors, "encoder.block.{}.layer.0.SelfAttention.q.weight")},
      {"relative_attention_max_distance", 128},
      {"relative_attention_num_buckets", dimension(tensors, kAttention + "relative_attention_bias.weight", 0)},
      {"vocab_size", dimension(tensors, tensors.contains(kTokens) ? kTokens : "shared.weight", 0)},
  };
}

json sd3_config(const StateDict& tensors) {
  auto dim = dimension(tensors, "context_embedder.weight", 0);
  auto patch = std::max<int64_t>(1, dimension(tensors, "pos_embed.proj.weight", 2));
  auto layers = count_blocks(tensors, "transformer_blocks.{}.norm1.linear.weight");
  const std::string kNorm = "transformer_blocks.0.attn.norm_q.weight";
  const bool normed = tensors.contains(kNorm);
  // Without such a tensor, the size of a head is that of the published models.
  auto head = std::max<int64_t>(1, normed ? dimension(tensors, kNorm, 0) : std::min<int64_t>(64, dim));
  auto dual = json::array();
  for (int64_t i = 0; i < layers; ++i)
    if (tensors.contains(fmt::format("transformer_blocks.{}.attn2.to_q.weight", i))) dual.push_back(i);
  return {
      {"_class_name", "SD3Transformer2DModel"},
      {"attention_head_dim", head},
      {"caption_projection_dim", dim},
      {"dual_attention_layers", dual},
      {"in_channels", dimension(tensors, "pos_embed.proj.weight", 1)},
      {"joint_attention_dim", dimension(tensors, "context_embedder.weight", 1)},
      {"num_attention_heads", dim / head},
      {"num_layers", layers},
      {"out_channels", dimension(tensors, "proj_out.weight", 0) / (patch * patch)},
      {"patch_size", patch},
      {"pooled_projection_dim", dimension(tensors, "time_text_embed.text_embedder.linear_1.weight", 1)},
      {"pos_embed_max_size",
       static_cast<int64_t>(std::lround(std::sqrt(dimension(tensors, "pos_embed.pos_embed", 1))))},
      {"qk_norm", normed ? json("rms_norm") : json()},
      {"sample_size", 128},
  };
}

}  // namespace lora
