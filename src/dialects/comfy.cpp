// ComfyUI's generic names, the model's own under `diffusion_model.` and `text_encoders.<name>.transformer.`; OMI's, the
// same names under diffusers' components; and a Control-LoRA's.
#include "dialects/tables.h"
#include "names/module_words.h"
#include "names/native.h"

namespace lora {

namespace {

// The text encoders of ComfyUI and OMI.
constexpr Row kTextEncoders[] = {
    {"clip_l.", "text_encoder"},  {"clip_h.", "text_encoder"}, {"clip_g.", "text_encoder_2"},
    {"t5xxl.", "text_encoder_3"}, {"t5.", "text_encoder_3"},
};

std::optional<LayerKey> text_encoder(std::string_view key) {
  auto component = take_prefix(key, kTextEncoders);
  if (!component) return std::nullopt;
  if (key.starts_with("transformer.")) key.remove_prefix(std::string_view("transformer.").size());
  auto suffix = take_known_end(key);
  if (suffix.empty()) return std::nullopt;
  return LayerKey{std::string(*component), modern_path(std::string(key), true), suffix};
}

}  // namespace

std::optional<LayerKey> read_comfy(std::string_view key) {
  static constexpr Row kDenoiser[] = {{"model.diffusion_model.", ""}, {"diffusion_model.", ""}};
  static constexpr Row kTexts[] = {{"text_encoders.", ""}};
  if (take_prefix(key, kTexts)) return text_encoder(key);
  if (!take_prefix(key, kDenoiser)) return std::nullopt;
  auto suffix = take_known_end(key);
  if (suffix.empty()) return std::nullopt;
  return LayerKey{"", modern_path(std::string(key), false), suffix};
}

std::optional<LayerKey> read_omi(std::string_view key) {
  static constexpr Row kDenoisers[] = {{"unet.", "unet"}, {"transformer.", "transformer"}};
  if (auto text = text_encoder(key)) return text;
  auto component = take_prefix(key, kDenoisers);
  auto suffix = take_known_end(key);
  if (!component || suffix.empty() || !is_native(key)) return std::nullopt;
  return LayerKey{std::string(*component), std::string(key), suffix};
}

std::optional<LayerKey> read_control_lora(std::string_view key) {
  static constexpr Row kSuffixes[] = {{".down", kDown}, {".up", kUp}};
  auto suffix = take_suffix(key, kSuffixes);
  if (!suffix || !is_native(key)) return std::nullopt;
  return LayerKey{"controlnet", std::string(key), *suffix};
}

}  // namespace lora
