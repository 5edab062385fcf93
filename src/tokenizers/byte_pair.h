#pragma once
// Byte-level byte-pair encoding with an end-of-word mark. A word is bytes. The vocabulary has one printable character
// for each byte. A word's last token ends in "</w>".
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

// The character for each byte. A printable Latin-1 byte has its own character; the others have U+0100, U+0101, … in
// order.
const std::array<char32_t, 256>& byte_characters();

// The bytes of a token. If one of its characters does not stand for a byte, the token itself.
std::string token_bytes(std::string_view token);

class BytePair {
 public:
  // `merges` are in the order of their ranks. Bytes without a token become `unknown`. Throws Error{bad_file} if that is
  // needed but empty.
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
