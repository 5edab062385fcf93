// PEFT's own files: `base_model.model.` before the path, now and then an adapter's name inside the factor's.
#include "dialects/names.h"
#include "dialects/tables.h"

namespace lora {

namespace {

constexpr Row kComponents[] = {
    {"unet.base_model.model.", "unet"},
    {"transformer.base_model.model.", "transformer"},
    {"text_encoder.base_model.model.", "text_encoder"},
    {"text_encoder_2.base_model.model.", "text_encoder_2"},
    {"base_model.model.", ""},
};

// Where an adapter's name stands: ".lora_A.<name>.weight".
constexpr Row kFactors[] = {{".lora_A.", "lora_A.weight"}, {".lora_B.", "lora_B.weight"}};

}  // namespace

std::optional<CanonicalKey> read_peft(std::string_view key) {
  auto component = take_prefix(key, kComponents);
  constexpr std::string_view kWeight = "weight";
  if (!component || !key.ends_with(kWeight)) return std::nullopt;
  for (auto [infix, suffix] : kFactors) {
    auto at = key.rfind(infix);
    if (at == std::string_view::npos) continue;
    auto path = key.substr(0, at);
    bool text = component->starts_with("text_encoder") || path.starts_with("text_model.") ||
                path.starts_with("encoder.layers.");
    if (component->empty() && text) component = "text_encoder";
    return CanonicalKey{*component, modern_path(std::string(path), text), std::string(suffix)};
  }
  return std::nullopt;
}

}  // namespace lora
