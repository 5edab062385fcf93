#pragma once
// The keys of embeddings: `clip_l` in a file of their own, `bundle_emb.<word>.clip_l` in the file of a LoRA that was
// trained with them.
#include <optional>
#include <string>
#include <string_view>

namespace lora {

struct EmbeddingKey {
  std::string component;  // the text encoder whose vectors these are
  std::string problem;    // why they cannot be loaded; "" where they can
  bool names_encoder;     // whether the key says which text encoder it is
};

// Nothing where the key is of no embedding.
std::optional<EmbeddingKey> read_embedding_key(std::string_view key);

struct BundledKey {
  std::string word;       // of prompts; may have dots
  std::string component;  // the text encoder whose vectors these are
  std::string problem;    // why they cannot be loaded; "" where they can
};

// Nothing where the key is of no bundled embedding.
std::optional<BundledKey> read_bundled_key(std::string_view key);

}  // namespace lora
