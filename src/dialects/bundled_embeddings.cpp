#include "dialects/bundled_embeddings.h"

namespace lora {

namespace {

constexpr std::string_view kPrefix = "bundle_emb.";

struct Tail {
  std::string_view spelling, component;
};

constexpr Tail kTails[] = {
    {".string_to_param.*", "text_encoder"},
    {".emb_params", "text_encoder"},
    {".clip_l", "text_encoder"},
    {".clip_g", "text_encoder_2"},
    {".t5", "text_encoder_3"},
    {".clip_l_out", ""},
    {".clip_g_out", ""},
    {".t5_out", ""},
};

constexpr const char* kOutput =
    "vectors for what a text encoder puts out, not for what it reads; those are not supported";
constexpr const char* kUnknown = "no known form of an embedding in a LoRA's file";

}  // namespace

std::optional<BundledKey> read_bundled_key(std::string_view key) {
  if (!key.starts_with(kPrefix)) return std::nullopt;
  key.remove_prefix(kPrefix.size());
  for (auto [spelling, component] : kTails)
    if (key.ends_with(spelling) && key.size() > spelling.size())
      return BundledKey{std::string(key.substr(0, key.size() - spelling.size())), std::string(component),
                        component.empty() ? kOutput : ""};
  return BundledKey{{}, {}, kUnknown};
}

}  // namespace lora
