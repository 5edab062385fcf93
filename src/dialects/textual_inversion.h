#pragma once
// Files of textual inversion: the vectors of one word of prompts, for one text encoder or for several.
#include <optional>
#include <string>
#include <vector>

#include "lora/adapters.h"
#include "lora/lora_options.h"

namespace lora {

struct TextualInversion {
  std::string form;   // whose form of a file it is: "diffusers", "a1111", "kohya" or "comfyui"
  std::string token;  // the word as diffusers' files name it; "" for other forms, which programs name by their file
  std::string name;   // what A1111's files call it; often an old name of the file
  std::vector<BundledEmbedding> embeddings;      // without a word
  bool names_encoders = false;                   // the file says for which text encoder each of them is
  std::vector<LoadReport::Unmatched> unmatched;  // the other tensors
};

// Nothing for a file of another form, and for one with several words. Looks at names and sizes, not at numbers.
std::optional<TextualInversion> read_textual_inversion(const StateDict& file);

// "2 vectors of width 768", by text encoder if the file has several.
std::string sizes_of(const TextualInversion& inversion);

}  // namespace lora
