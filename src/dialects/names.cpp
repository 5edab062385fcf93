#include "dialects/names.h"

#include <algorithm>
#include <array>

#include "core/text.h"

namespace lora {

namespace {

// Every part of a module path. A part may hold underscores, so the longest one that fits is taken: "proj_in" before
// "proj".
constexpr auto kParts = std::to_array<std::string_view>({
    // UNet
    "add_embedding",
    "attentions",
    "attn1",
    "attn2",
    "conv",
    "conv1",
    "conv2",
    "conv_in",
    "conv_norm_out",
    "conv_out",
    "conv_shortcut",
    "down_blocks",
    "downsamplers",
    "ff",
    "group_norm",
    "linear_1",
    "linear_2",
    "mid_block",
    "net",
    "norm",
    "norm1",
    "norm2",
    "norm3",
    "proj",
    "proj_in",
    "proj_out",
    "resnets",
    "time_emb_proj",
    "time_embedding",
    "to_k",
    "to_out",
    "to_q",
    "to_v",
    "transformer_blocks",
    "up_blocks",
    "upsamplers",
    // CLIP
    "embeddings",
    "encoder",
    "fc1",
    "fc2",
    "final_layer_norm",
    "k_proj",
    "layer_norm1",
    "layer_norm2",
    "layers",
    "mlp",
    "out_proj",
    "position_embedding",
    "q_proj",
    "self_attn",
    "text_model",
    "text_projection",
    "token_embedding",
    "v_proj",
});

// The length of the part that `flat` starts with, or 0.
size_t leading_part(std::string_view flat) {
  auto ends_at = [&](size_t n) { return n == flat.size() || flat[n] == '_'; };
  size_t digits = std::min(flat.find_first_not_of("0123456789"), flat.size());
  size_t longest = digits > 0 && ends_at(digits) ? digits : 0;
  for (auto part : kParts)
    if (part.size() > longest && flat.starts_with(part) && ends_at(part.size())) longest = part.size();
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
  path = replace_all(std::move(path), ".processor.", ".");
  if (path.ends_with(".processor")) path.resize(path.size() - std::string_view(".processor").size());
  if (path.ends_with(".to_out")) path += ".0";
  if (text_encoder &&
      (path.starts_with("encoder.layers.") || path.starts_with("embeddings.") || path.starts_with("final_layer_norm")))
    path.insert(0, "text_model.");
  return path;
}

}  // namespace lora
