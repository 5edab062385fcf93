#pragma once
// Embeddings that were trained beside a LoRA and travel in its file: `bundle_emb.<word>.<tail>`.
#include <optional>
#include <string>
#include <string_view>

namespace lora {

struct BundledKey {
  std::string word;       // of prompts; may have dots
  std::string component;  // the text encoder whose vectors these are
  std::string problem;    // why they cannot be loaded; "" where they can
};

// Nothing where the key is of no bundled embedding.
std::optional<BundledKey> read_bundled_key(std::string_view key);

}  // namespace lora
