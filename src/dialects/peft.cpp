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

// Where an adapter's name stands: ".lora_A.<name>.weight". By the key's end, what is between being the name.
struct Factor {
  std::string_view infix, end, suffix;
};
constexpr Factor kFactors[] = {
    {".lora_A.", "weight", "lora_A.weight"},
    {".lora_B.", "weight", "lora_B.weight"},
    {".lora_B.", "bias", "lora_B.bias"},
    {".lora_magnitude_vector", "", "lora_magnitude_vector"},
};

}  // namespace

std::optional<CanonicalKey> read_peft(std::string_view key) {
  auto component = take_prefix(key, kComponents);
  if (!component) return std::nullopt;
  for (auto [infix, end, suffix] : kFactors) {
    auto at = key.rfind(infix);
    if (at == std::string_view::npos || !key.ends_with(end)) continue;
    auto path = key.substr(0, at);
    bool text = component->starts_with("text_encoder") || path.starts_with("text_model.") ||
                path.starts_with("encoder.layers.");
    if (component->empty() && text) component = "text_encoder";
    return CanonicalKey{*component, modern_path(std::string(path), text), std::string(suffix)};
  }
  return std::nullopt;
}

}  // namespace lora
