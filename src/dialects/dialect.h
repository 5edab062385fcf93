#pragma once
// From the spellings of the world to one: every key of a file is read by the first dialect that understands it, so that
// mixed files are nothing special. Nothing below this folder knows that other spellings exist.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dialects/architecture.h"
#include "lora/lora_options.h"

namespace lora {

struct CanonicalKey {
  std::string
      component;       // unet, transformer, text_encoder, text_encoder_2, text_encoder_3, controlnet; "": the denoiser
  std::string path;    // of the module; in the denoiser's native names where the dialect has those
  std::string suffix;  // as docs/formats.md lists them: lora_A.weight, hada_w1_a, …, alpha
};

struct Dialect {
  const char* name;
  const char* example;  // a key as this dialect spells it
  std::optional<CanonicalKey> (*read)(std::string_view key);
};

// All of them, in the order in which they are asked.
const std::vector<Dialect>& dialects();

struct Canonical {
  StateDict tensors;  // `<component>.<path as in diffusers>.<suffix>`, alphas among them
  Architecture architecture;
  std::string dialect;  // the names of those that read at least one key, most keys first, " + " between
  std::vector<BundledEmbedding> embeddings;
  std::vector<LoadReport::Unmatched> unmatched;  // keys that no dialect reads
  std::vector<std::string> notes;                // what was done that the numbers do not say
};

// `denoiser` is the component that keys without one belong to ("unet"); "" for what the file's architecture has.
// Tensors are the file's own, or views of them where a layer of the file is several of the model's. Throws
// Error{bad_key} for a file that holds no adapter at all, saying what it looks like, and Error{unsupported} for a layer
// whose parts cannot be told apart.
Canonical to_canonical(const StateDict& file, const std::string& denoiser, const std::string& label);

}  // namespace lora
