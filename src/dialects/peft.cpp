// PEFT's own files: `base_model.model.` before the path, or below a component's name, now and then an adapter's name
// inside the factor's.
#include "dialects/tables.h"
#include "names/module_words.h"

namespace lora {

namespace {

// The text encoder that a path is of by its name; "" for another model's.
std::string_view text_encoder_of(std::string_view path) {
  if (path.starts_with("text_model.") || path == "text_projection" || is_bare_clip_path(path)) return "text_encoder";
  bool t5 = path.starts_with("encoder.block.") || path.starts_with("encoder.final_layer_norm") || path == "shared";
  return t5 ? "text_encoder_3" : "";
}

}  // namespace

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
  if (component->empty()) component = text_encoder_of(key);
  return LayerKey{std::string(*component), modern_path(std::string(key), component->starts_with("text_encoder")),
                  suffix};
}

}  // namespace lora
