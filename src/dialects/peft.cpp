// PEFT's own files: `base_model.model.` before the path, or below a component's name, now and then an adapter's name
// inside the factor's.
#include <algorithm>

#include "dialects/tables.h"
#include "names/module_words.h"

namespace lora {

std::optional<LayerKey> read_peft(std::string_view key) {
  static constexpr Row kComponents[] = {
      {"unet.", "unet"},
      {"transformer.", "transformer"},
      {"text_encoder.", "text_encoder"},
      {"text_encoder_2.", "text_encoder_2"},
      {"text_encoder_3.", "text_encoder_3"},
      {"diffusion_model.", ""},
  };
  static constexpr Row kPeft[] = {{"base_model.model.", ""}};
  auto component = take_prefix(key, kComponents);
  if (!take_prefix(key, kPeft)) return std::nullopt;
  if (!component) component = take_prefix(key, kComponents).value_or("");
  auto suffix = take_known_end(key);
  if (suffix.empty()) suffix = take_whole_bias(key);
  if (suffix.empty()) return std::nullopt;
  static constexpr std::string_view kClip[] = {"text_model.", "encoder.layers.", "embeddings.", "final_layer_norm"};
  bool clip = std::any_of(std::begin(kClip), std::end(kClip), [&](auto start) { return key.starts_with(start); });
  if (component->empty() && clip) component = "text_encoder";
  if (component->empty() && key.starts_with("encoder.block.")) component = "text_encoder_3";
  return LayerKey{std::string(*component), modern_path(std::string(key), component->starts_with("text_encoder")),
                  suffix};
}

}  // namespace lora
