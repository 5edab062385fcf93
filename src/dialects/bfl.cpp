// Flux files without a prefix: Black Forest Labs' own, and XLabs', which name the attention's processors.
#include "core/text.h"
#include "dialects/tables.h"
#include "names/native.h"

namespace lora {

std::optional<LayerKey> read_bfl(std::string_view key) {
  auto suffix = take_known_end(key);
  if (suffix.empty() || !(is_flux_native(key) || key.starts_with("final_layer."))) return std::nullopt;
  return LayerKey{"transformer", std::string(key), suffix};
}

std::optional<LayerKey> read_xlabs(std::string_view key) {
  static constexpr Row kSuffixes[] = {{".down.weight", kDown}, {".up.weight", kUp}};
  // 1 is the picture's, 2 the text's. A single block's has the rows of q, k and v alone.
  static constexpr Row kLayers[] = {
      {".processor.qkv_lora1", ".img_attn.qkv"},   {".processor.qkv_lora2", ".txt_attn.qkv"},
      {".processor.proj_lora1", ".img_attn.proj"}, {".processor.proj_lora2", ".txt_attn.proj"},
      {".processor.qkv_lora", ".linear1.qkv"},     {".processor.proj_lora", ".linear2"},
  };
  static constexpr Row kPrefixes[] = {{"diffusion_model.", ""}, {"model.diffusion_model.", ""}};
  take_prefix(key, kPrefixes);
  auto suffix = take_suffix(key, kSuffixes);
  auto layer = suffix ? take_suffix(key, kLayers) : std::nullopt;
  if (!layer || !(key.starts_with("double_blocks.") || key.starts_with("single_blocks."))) return std::nullopt;
  return LayerKey{"transformer", std::string(key) + std::string(*layer), *suffix};
}

}  // namespace lora
