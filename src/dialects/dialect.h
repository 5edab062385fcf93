#pragma once
// From the spellings of the world to one: every key of a file is read by the first dialect that understands it, so that
// mixed files are nothing special. Nothing below this folder knows that other spellings exist.
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/tensor_sizes.h"
#include "lora/lora_file.h"

namespace lora {

class MappedFile;

// What one key says.
struct LayerKey {
  // unet, transformer, text_encoder, text_encoder_2, text_encoder_3, controlnet; "": the denoiser
  std::string component;
  std::string path;         // of the module; in the denoiser's native names where the dialect has those
  std::string_view suffix;  // canonical: see docs/formats.md; or kNoEffect
};
// The suffix of a tensor that a trainer saved beside the one that counts, and that no program reads.
inline constexpr std::string_view kNoEffect = "no effect";

struct Dialect {
  const char* name;
  const char* example;  // a key as this dialect spells it
  std::optional<LayerKey> (*read)(std::string_view key);
};

// All of them, in the order in which they are asked.
const std::vector<Dialect>& dialects();

// `denoiser` is the component that keys without one belong to ("unet"); "" for the one that the file's base model has.
// `base_model` is what the caller says that the file is for. `content` is what `file` has: without numbers, the layers
// have no strengths.
// Tensors are the file's own, or views of them where a layer of the file is several of the model's. Strengths are read;
// pages of `mapped` are given back meanwhile. Throws Error{bad_key} for a file that holds no adapter at all, saying
// what it looks like, and Error{unsupported} for a layer whose parts cannot be told apart.
LoraFile to_lora_file(const StateDict& file, const std::string& denoiser, const std::string& label,
                      std::span<const std::shared_ptr<const MappedFile>> mapped = {},
                      BaseModel base_model = BaseModel::unknown, Content content = Content::tensors);

}  // namespace lora
