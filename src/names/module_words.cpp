#include "names/module_words.h"

#include <algorithm>
#include <unordered_set>

#include "core/text.h"

namespace lora {

namespace {

// Every part of a module path. A part may hold underscores, so the longest one that fits is taken: "proj_in" before
// "proj".
// clang-format off
const std::unordered_set<std::string_view> kParts = {
    // UNet
    "add_embedding", "attentions", "attn1", "attn2", "conv", "conv1", "conv2", "conv_in", "conv_norm_out",
    "conv_out", "conv_shortcut", "down_blocks", "downsamplers", "ff", "group_norm", "linear_1", "linear_2",
    "mid_block", "net", "norm", "norm1", "norm2", "norm3", "proj", "proj_in", "proj_out", "resnets", "time_emb_proj",
    "time_embedding", "to_k", "to_out", "to_q", "to_v", "transformer_blocks", "up_blocks", "upsamplers",
    // CLIP
    "embeddings", "encoder", "fc1", "fc2", "final_layer_norm", "k_proj", "layer_norm1", "layer_norm2", "layers",
    "mlp", "out_proj", "position_embedding", "q_proj", "self_attn", "text_model", "text_projection",
    "token_embedding", "v_proj",
    // T5
    "DenseReluDense", "SelfAttention", "block", "k", "layer", "layer_norm", "o", "q", "relative_attention_bias",
    "shared", "v", "wi_0", "wi_1", "wo",
    // SD3Transformer2DModel
    "add_k_proj", "add_q_proj", "add_v_proj", "attn", "context_embedder", "ff_context", "linear", "norm1_context",
    "norm_added_k", "norm_added_q", "norm_k", "norm_out", "norm_q", "pos_embed", "text_embedder", "time_text_embed",
    "timestep_embedder", "to_add_out",
    // FluxTransformer2DModel
    "guidance_embedder", "proj_mlp", "single_transformer_blocks", "x_embedder",
    // UVit2DModel
    "attention_blocks", "channelwise_linear_1", "channelwise_linear_2", "channelwise_norm", "cond_embed",
    "cond_embeds_mapper", "crossattn_embed", "depthwise", "down_block", "downsample", "embed", "encoder_proj",
    "encoder_proj_layer_norm", "kv_mapper", "mlm_layer", "project_from_hidden", "project_from_hidden_norm",
    "project_to_hidden", "project_to_hidden_norm", "res_blocks", "transformer_layers", "up_block", "upsample",
    // SD 1.x to XL's own
    "emb_layers", "in_layers", "input_blocks", "label_emb", "middle_block", "op", "out", "out_layers",
    "output_blocks", "skip_connection", "time_embed",
    // Stable Diffusion 3's own
    "adaLN_modulation", "context_block", "final_layer", "joint_blocks", "ln_k", "ln_q", "qkv", "t_embedder",
    "x_block", "y_embedder",
    // Flux' own
    "double_blocks", "guidance_in", "img_attn", "img_in", "img_mlp", "img_mod", "in_layer", "key_norm", "lin",
    "linear1", "linear2", "modulation", "out_layer", "query_norm", "single_blocks", "time_in", "txt_attn", "txt_in",
    "txt_mlp", "txt_mod", "vector_in",
};
// clang-format on
constexpr int kMostWords = 4;  // of a part

bool is_number(std::string_view text) { return text.find_first_not_of("0123456789") == text.npos; }

// The length of the part that `flat` starts with, or 0.
size_t leading_part(std::string_view flat) {
  size_t longest = 0, end = 0;
  for (int words = 0; words < kMostWords && end != flat.npos; ++words) {
    end = flat.find('_', end + (words > 0));
    auto part = flat.substr(0, end);
    if (kParts.contains(part) || (words == 0 && !part.empty() && is_number(part))) longest = part.size();
  }
  return longest;
}

}  // namespace

std::optional<std::string> unflatten(std::string_view flat) {
  std::string path;
  while (true) {
    size_t n = leading_part(flat);
    if (n == 0) return std::nullopt;
    path.append(flat.substr(0, n));
    if (n == flat.size()) return path;
    path += '.';
    flat.remove_prefix(n + 1);
  }
}

std::string modern_path(std::string path, bool text_encoder) {
  // What is left of `transformer.transformer_blocks` where as much was cut off as `diffusion_model.` has.
  for (auto [cut, whole] :
       {std::pair("sformer_blocks.", "transformer_blocks."), {"le_transformer_blocks.", "single_transformer_blocks."}})
    if (path.starts_with(cut)) path.replace(0, std::string_view(cut).size(), whole);
  path = replace_all(std::move(path), ".processor.", ".");
  if (path.ends_with(".processor")) path.resize(path.size() - std::string_view(".processor").size());
  if (path.ends_with(".to_out")) path += ".0";
  if (text_encoder && is_bare_clip_path(path)) path.insert(0, "text_model.");
  return path;
}

bool is_bare_clip_path(std::string_view path) {
  return path.starts_with("encoder.layers.") || path.starts_with("embeddings.") || path.starts_with("final_layer_norm");
}

}  // namespace lora
