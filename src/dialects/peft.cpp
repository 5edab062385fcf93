// PEFT's own files: `base_model.model.` before the path, now and then an adapter's name inside the factor's.
#include "dialects/tables.h"
#include "names/module_words.h"

namespace lora {

std::optional<LayerKey> read_peft(std::string_view key) {
  static constexpr Row kComponents[] = {
      {"unet.base_model.model.", "unet"},
      {"transformer.base_model.model.", "transformer"},
      {"text_encoder.base_model.model.", "text_encoder"},
      {"text_encoder_2.base_model.model.", "text_encoder_2"},
      {"text_encoder_3.base_model.model.", "text_encoder_3"},
      {"base_model.model.", ""},
  };
  auto component = take_prefix(key, kComponents);
  auto suffix = take_peft_end(key);
  if (!component || suffix.empty()) return std::nullopt;
  bool clip = key.starts_with("text_model.") || key.starts_with("encoder.layers.");
  if (component->empty() && clip) component = "text_encoder";
  if (component->empty() && key.starts_with("encoder.block.")) component = "text_encoder_3";
  return LayerKey{std::string(*component), modern_path(std::string(key), component->starts_with("text_encoder")),
                  suffix};
}

}  // namespace lora
