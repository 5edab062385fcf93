#pragma once
// From the spellings of the world to one: every key of a file is read by the first dialect that understands it, so that
// mixed files are nothing special. Nothing below this folder knows that other spellings exist.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lora/adapters.h"
#include "lora/state_dict.h"

namespace lora {

struct CanonicalKey {
  std::string component;  // unet, transformer, text_encoder, text_encoder_2, text_encoder_3; "" for the denoiser
  std::string path;       // of the module, as in diffusers
  std::string
      suffix;  // lora_A.weight, lora_B.weight, lora_B.bias, lora_magnitude_vector, dora_scale, diff, diff_b, alpha
};

struct Dialect {
  const char* name;
  const char* example;  // a key as this dialect spells it
  std::optional<CanonicalKey> (*read)(std::string_view key);
};

// All of them, in the order in which they are asked.
const std::vector<Dialect>& dialects();

struct Canonical {
  StateDict tensors;    // `<component>.<path>.<suffix>`, alphas among them
  std::string dialect;  // the names of those that read at least one key, most keys first, " + " between
  std::vector<LoadReport::Unmatched> unmatched;  // keys that no dialect reads
};

// `denoiser` is the component that keys without one belong to ("unet"). Throws Error{unsupported} for a file of an
// algorithm that is not LoRA, and Error{bad_key} for one that holds no adapter at all, saying what it looks like.
Canonical to_canonical(const StateDict& file, const std::string& denoiser, const std::string& label);

}  // namespace lora
