// ComfyUI's generic names, the model's own under `diffusion_model.` and `text_encoders.<name>.transformer.`; OMI's, the
// same names under diffusers' components; and a Control-LoRA's.
#include "dialects/tables.h"
#include "names/module_words.h"
#include "names/native.h"

namespace lora {

namespace {

std::optional<std::string> take_any_suffix(std::string_view& key) {
  if (auto suffix = take_kohya_suffix(key)) return suffix;
  return take_peft_suffix(key);
}

std::optional<CanonicalKey> text_encoder(std::string_view key) {
  auto component = take_prefix(key, clip_names());
  if (!component) return std::nullopt;
  if (key.starts_with("transformer.")) key.remove_prefix(std::string_view("transformer.").size());
  auto suffix = take_any_suffix(key);
  if (!suffix) return std::nullopt;
  return CanonicalKey{*component, modern_path(std::string(key), true), *suffix};
}

}  // namespace

std::optional<CanonicalKey> read_comfy(std::string_view key) {
  static constexpr Row kDenoiser[] = {{"model.diffusion_model.", ""}, {"diffusion_model.", ""}};
  static constexpr Row kTexts[] = {{"text_encoders.", ""}};
  if (take_prefix(key, kTexts)) return text_encoder(key);
  if (!take_prefix(key, kDenoiser)) return std::nullopt;
  auto suffix = take_any_suffix(key);
  if (!suffix) return std::nullopt;
  return CanonicalKey{"", modern_path(std::string(key), false), *suffix};
}

std::optional<CanonicalKey> read_omi(std::string_view key) {
  static constexpr Row kDenoisers[] = {{"unet.", "unet"}, {"transformer.", "transformer"}};
  if (auto text = text_encoder(key)) return text;
  auto component = take_prefix(key, kDenoisers);
  auto suffix = take_any_suffix(key);
  if (!component || !suffix || !is_native(key)) return std::nullopt;
  return CanonicalKey{*component, std::string(key), *suffix};
}

std::optional<CanonicalKey> read_control_lora(std::string_view key) {
  static constexpr Row kSuffixes[] = {{".down", "lora_A.weight"}, {".up", "lora_B.weight"}};
  auto suffix = take_suffix(key, kSuffixes);
  if (!suffix || !is_native(key)) return std::nullopt;
  return CanonicalKey{"controlnet", std::string(key), *suffix};
}

}  // namespace lora
