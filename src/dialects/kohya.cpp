// kohya's sd-scripts, and what A1111 reads: flat names under lora_unet_ and lora_te_, lora_down/lora_up and alpha.
#include "core/text.h"
#include "dialects/names.h"
#include "dialects/tables.h"

namespace lora {

namespace {

constexpr Row kComponents[] = {
    {"lora_unet_", ""},  // whatever denoiser the pipeline has
    {"lora_te1_", "text_encoder"},
    {"lora_te2_", "text_encoder_2"},
    {"lora_te3_", "text_encoder_3"},
    {"lora_te_", "text_encoder"},
};
constexpr Row kSuffixes[] = {
    {".lora_down.weight", "lora_A.weight"},
    {".lora_up.weight", "lora_B.weight"},
    {".alpha", "alpha"},
    {".dora_scale", "dora_scale"},
    {".diff", "diff"},
    {".diff_b", "diff_b"},
    {".w_norm", "diff"},  // LyCORIS, of norms
    {".b_norm", "diff_b"},
};

}  // namespace

std::optional<CanonicalKey> read_kohya(std::string_view key) {
  auto component = take_prefix(key, kComponents);
  auto suffix = take_suffix(key, kSuffixes);
  if (!component || !suffix) return std::nullopt;
  // Files that were converted from diffusers may have kept dots in the flat part.
  auto path = unflatten(replace_all(std::string(key), ".", "_"));
  if (!path) return std::nullopt;
  return CanonicalKey{*component, modern_path(*path, component->starts_with("text_encoder")), *suffix};
}

}  // namespace lora
