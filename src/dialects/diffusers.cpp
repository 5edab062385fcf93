// diffusers, from the oldest files to today's. A component's name, then the module's path, then one of three spellings
// of the factors.
#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"
#include "dialects/tables.h"
#include "names/base_model.h"
#include "names/module_words.h"
#include "names/native.h"

namespace lora {

namespace {

constexpr Row kComponents[] = {
    {"unet.", "unet"},
    {"transformer.", "transformer"},
    {"text_encoder_3.", "text_encoder_3"},
    {"text_encoder_2.", "text_encoder_2"},
    {"text_encoder.", "text_encoder"},
};

// Files from before components were named hold the UNet alone.
constexpr std::string_view kUNetStarts[] = {"down_blocks.", "mid_block.", "up_blocks."};

std::optional<std::string> named_component(std::string_view& key) {
  auto found = take_prefix(key, kComponents);
  if (!found) return std::nullopt;
  std::string component(*found);
  while (key.starts_with(component + ".")) key.remove_prefix(component.size() + 1);  // "unet.unet."
  return component;
}

std::optional<std::string> component_of(std::string_view& key) {
  if (auto component = named_component(key)) return component;
  for (auto start : kUNetStarts)
    if (key.starts_with(start)) return "";
  return std::nullopt;
}

// "…attn1.processor.to_q_lora" is "…attn1.to_q"; a text encoder's "…self_attn.to_q_lora" is "…self_attn.q_proj".
constexpr Row kProcessorLeaves[] = {
    {"to_q_lora", "to_q"},
    {"to_k_lora", "to_k"},
    {"to_v_lora", "to_v"},
    {"to_out_lora", "to_out.0"},
};
constexpr Row kTextLeaves[] = {
    {"to_q_lora", "q_proj"},
    {"to_k_lora", "k_proj"},
    {"to_v_lora", "v_proj"},
    {"to_out_lora", "out_proj"},
};

// The spelling of 2023, which is a dialect of its own below a component's name.
constexpr std::string_view kLayerEnds[] = {".lora.down.weight",
                                           ".lora.up.weight",
                                           ".lora.up.bias",
                                           ".lora_linear_layer.down.weight",
                                           ".lora_linear_layer.up.weight",
                                           ".lora_linear_layer.up.bias"};

bool is_of_2023(std::string_view key) {
  return std::any_of(std::begin(kLayerEnds), std::end(kLayerEnds), [&](auto end) { return key.ends_with(end); });
}

}  // namespace

// Today: PEFT's factors under the component's name; and those of other trainers there.
std::optional<LayerKey> read_diffusers(std::string_view key) {
  if (is_of_2023(key)) return std::nullopt;
  auto component = named_component(key);
  if (!component) return std::nullopt;
  auto suffix = take_known_end(key);
  if (suffix.empty()) suffix = take_whole_bias(key);
  if (suffix.empty() || is_native(key)) return std::nullopt;  // native names below a component's are OMI's
  return LayerKey{*component, modern_path(std::string(key), component->starts_with("text_encoder")), suffix};
}

// The same without a component's name: the state dict of a denoiser or of a CLIP text encoder.
std::optional<LayerKey> read_bare(std::string_view key) {
  static constexpr std::string_view kStarts[] = {"down_blocks.",
                                                 "mid_block.",
                                                 "up_blocks.",
                                                 "conv_in.",
                                                 "conv_out.",
                                                 "conv_norm_out.",
                                                 "time_embedding.linear_",
                                                 "add_embedding.",
                                                 "pos_embed.",
                                                 "context_embedder.",
                                                 "time_text_embed.",
                                                 "norm_out.",
                                                 "proj_out.",
                                                 "sformer_blocks.",
                                                 "le_transformer_blocks.",
                                                 "distilled_guidance_layer.",
                                                 "transformer_layers."};
  auto has_start = [&](auto start) { return key.starts_with(start); };
  const bool text_encoder = key.starts_with("text_model.");
  bool ours = text_encoder || std::any_of(std::begin(kStarts), std::end(kStarts), has_start) || is_native(key) ||
              starts_with_block_list(key);
  if (!ours || is_flux_native(key) || (is_of_2023(key) && component_of(key))) return std::nullopt;
  auto suffix = take_known_end(key);
  if (suffix.empty()) suffix = take_whole_bias(key);
  if (suffix.empty()) return std::nullopt;
  return LayerKey{text_encoder ? "text_encoder" : "", modern_path(std::string(key), text_encoder), suffix};
}

// 2023: factors inside layers, `lora` in a UNet, `lora_linear_layer` in a text encoder.
std::optional<LayerKey> read_diffusers_layers(std::string_view key) {
  if (!is_of_2023(key)) return std::nullopt;
  auto component = component_of(key);
  auto suffix = take_known_end(key);
  if (!component || suffix.empty()) return std::nullopt;
  return LayerKey{*component, modern_path(std::string(key), component->starts_with("text_encoder")), suffix};
}

// The oldest: attention processors with one set of factors a projection.
std::optional<LayerKey> read_attention_processors(std::string_view key) {
  static constexpr Row kSuffixes[] = {{".down.weight", kDown}, {".up.weight", kUp}};
  auto component = component_of(key);
  auto suffix = take_suffix(key, kSuffixes);
  if (!component || !suffix) return std::nullopt;
  bool text = component->starts_with("text_encoder");
  auto leaf = text ? take_suffix(key, kTextLeaves) : take_suffix(key, kProcessorLeaves);
  if (!leaf || !key.ends_with(".")) return std::nullopt;
  // Some releases put all four below each of a text encoder's projections; the one that belongs there counts.
  if (text && key.ends_with("_proj.")) {
    if (!key.ends_with(fmt::format(".{}.", *leaf))) return LayerKey{*component, "", kNoEffect};
    key.remove_suffix(leaf->size() + 1);
  }
  return LayerKey{*component, modern_path(std::string(key) + std::string(*leaf), text), *suffix};
}

}  // namespace lora
