#pragma once
// The tokens of prompts in A1111's syntax, with their weights.
#include <cstdint>
#include <string_view>
#include <vector>

#include "lora/t5_tokenizer.h"
#include "lora/tokenizer.h"

namespace lora {

// Tokens that a text encoder reads at once: a text between its begin and end token, and padding.
struct PromptChunk {
  std::vector<int64_t> ids;
  std::vector<double> weights;  // of each id; 1 for begin, end and padding
};

// A full chunk ends after its last comma if the comma and what follows are at most this many tokens.
constexpr int64_t kMostMovedTokens = 20;

// A prompt in chunks of `length` ids, at least one. `words` are those that the tokenizer knows beside its vocabulary.
// The ids of one word stay together in one chunk. A word of more ids than a chunk has is cut. Throws Error{usage} where
// `length` has no room between begin and end.
std::vector<PromptChunk> prompt_chunks(std::string_view prompt, const CLIPTokenizer& tokenizer,
                                       const std::vector<AddedWord>& words, int64_t length);

// A prompt in one chunk of any length, without padding.
PromptChunk t5_tokens(std::string_view prompt, const T5Tokenizer& tokenizer);

}  // namespace lora
