// kohya's sd-scripts, LyCORIS in them, and what A1111 reads: flat names under lora_unet_ and lora_te_, in diffusers'
// names for Stable Diffusion 1.x and 2.x and in native ones for what came after.
#include "core/text.h"
#include "dialects/tables.h"
#include "names/module_words.h"

namespace lora {

namespace {

std::optional<LayerKey> read_flat(std::string_view key, std::span<const Row> components) {
  auto component = take_prefix(key, components);
  if (!component) return std::nullopt;
  auto suffix = take_known_end(key);
  if (suffix.empty()) return std::nullopt;
  // Files that were converted from diffusers may have kept dots in the flat part, or an underscore behind it.
  auto flat = replace_all(std::string(key), ".", "_");
  flat.erase(flat.find_last_not_of('_') + 1);
  if (flat.empty()) return std::nullopt;
  auto path = unflatten(flat);
  if (!path && key.find('.') != key.npos) return std::nullopt;
  if (!path) return LayerKey{std::string(*component), flat, suffix};  // of a model whose words are not known here
  // What OneTrainer calls the second text encoder may be Flux' T5.
  if (component == "text_encoder_2" && path->starts_with("encoder.block.")) component = "text_encoder_3";
  return LayerKey{std::string(*component), modern_path(*path, component->starts_with("text_encoder")), suffix};
}

}  // namespace

std::optional<LayerKey> read_kohya(std::string_view key) {
  static constexpr Row kComponents[] = {
      {"lora_unet__", ""},  // whatever denoiser the pipeline has
      {"lora_unet_", ""},
      {"oft_unet_", ""},
      {"lora_te1_", "text_encoder"},
      {"lora_te2_", "text_encoder_2"},
      {"lora_te3_", "text_encoder_3"},
      {"lora_te_", "text_encoder"},
  };
  return read_flat(key, kComponents);
}

// OneTrainer's own names for transformers; its other files are kohya's, OMI's or ComfyUI's.
std::optional<LayerKey> read_onetrainer(std::string_view key) {
  static constexpr Row kComponents[] = {{"lora_transformer_", "transformer"}, {"transformer_", "transformer"}};
  return read_flat(key, kComponents);
}

// LyCORIS around a diffusers model, as SimpleTuner uses it.
std::optional<LayerKey> read_lycoris(std::string_view key) {
  static constexpr Row kComponents[] = {{"lycoris_", ""}};
  return read_flat(key, kComponents);
}

}  // namespace lora
