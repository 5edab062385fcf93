#include "dialects/bundled_embeddings.h"

namespace lora {

namespace {

constexpr std::string_view kPrefix = "bundle_emb.";

struct Spelling {
  std::string_view key, component;
  bool names_encoder;
};

constexpr Spelling kSpellings[] = {
    {"string_to_param.*", "text_encoder", false},
    {"emb_params", "text_encoder", false},
    {"clip_l", "text_encoder", true},
    {"clip_g", "text_encoder_2", true},
    {"t5", "text_encoder_3", true},
    {"t5xxl", "text_encoder_3", true},
    {"clip_l_out", "", true},
    {"clip_g_out", "", true},
    {"t5_out", "", true},
};

constexpr const char* kOutput =
    "vectors for what a text encoder puts out, not for what it reads; those are not supported";
constexpr const char* kUnknown = "no known form of an embedding in a LoRA's file";

}  // namespace

std::optional<EmbeddingKey> read_embedding_key(std::string_view key) {
  for (auto [spelling, component, names_encoder] : kSpellings)
    if (key == spelling) return EmbeddingKey{std::string(component), component.empty() ? kOutput : "", names_encoder};
  return std::nullopt;
}

std::optional<BundledKey> read_bundled_key(std::string_view key) {
  if (!key.starts_with(kPrefix)) return std::nullopt;
  key.remove_prefix(kPrefix.size());
  for (auto dot = key.find('.', 1); dot != key.npos; dot = key.find('.', dot + 1))
    if (auto read = read_embedding_key(key.substr(dot + 1)))
      return BundledKey{std::string(key.substr(0, dot)), std::move(read->component), std::move(read->problem)};
  return BundledKey{{}, {}, kUnknown};
}

}  // namespace lora
