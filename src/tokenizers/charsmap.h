#pragma once
// SentencePiece's precompiled map of characters: T5's normalisation, which is a variant of NFKC.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

class Charsmap {
 public:
  // `compiled` has SentencePiece's format: a trie of keys, then their replacements. "" replaces nothing. Throws
  // Error{bad_file}; `source` names the file in the message.
  Charsmap(std::string_view compiled, const std::string& source);

  std::u32string operator()(const std::u32string& text) const;

 private:
  // The replacement of the shortest key at the beginning of `text`, or nullptr.
  const char* find(std::string_view text) const;

  std::vector<uint32_t> trie_;  // a double array, in the format of Darts
  std::string replacements_;    // each with a NUL behind it
};

}  // namespace lora
