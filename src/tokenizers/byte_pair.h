#pragma once
// Byte-level byte-pair encoding with an end-of-word mark. A word is bytes; each byte stands in the vocabulary as one
// printable character, and a word's last token ends in "</w>".
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/flat_index.h"
#include "tokenizers/vocabulary.h"

namespace lora {

inline constexpr std::string_view kEndOfWord = "</w>";

struct Merge {
  int32_t left, right, merged;  // ids
};

// The character that stands for each byte: printable Latin-1 bytes for themselves, the others by U+0100 and up, in
// order.
const std::array<char32_t, 256>& byte_characters();

// The bytes that a token stands for; a token with characters that stand for no byte is taken as it is written.
std::string token_bytes(std::string_view token);

class BytePair {
 public:
  // `merges` in order of rank. Bytes that have no token become `unknown`; Error{bad_file} where that is needed and
  // empty.
  BytePair(const Vocabulary& vocabulary, std::vector<Merge> merges, std::optional<int64_t> unknown);

  std::vector<int64_t> encode(std::string_view word) const;

 private:
  // The rank of merging two tokens, or FlatIndex::kNone.
  uint32_t rank(int64_t left, int64_t right) const;

  std::vector<Merge> merges_;
  FlatIndex by_pair_;
  std::array<int64_t, 256> inner_{}, last_{};  // a byte's token inside a word, and at its end
};

}  // namespace lora
