#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace lora {

// A word of prompts that stands for vectors of its own (textual inversion): the ids of its vectors, in order, beyond
// the text encoder's vocabulary.
struct AddedWord {
  std::string text;
  std::vector<int64_t> ids;
  bool is_no_token = false;  // with_words() refuses the word if it is one token of the vocabulary
};

}  // namespace lora
