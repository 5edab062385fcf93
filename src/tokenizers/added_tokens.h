#pragma once
// Added tokens: the special tokens, and tokens that were added to a vocabulary later. The tokenizer finds them in a
// text before the pre-tokenizer splits the rest into words.
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/utf8.h"
#include "lora/added_word.h"

namespace lora {

struct AddedToken {
  std::string content;
  bool normalized = false;   // true: found in the normalised text; false: in the original text
  bool single_word = false;  // true: not found inside a longer word
  bool special = true;

  // Whether the token takes in white space on its left or right. The tokenizer drops white space anyway. So these only
  // decide whether two definitions are equal.
  bool lstrip = false, rstrip = false;
  bool plain = false;  // the file gives only a string

  bool operator==(const AddedToken&) const = default;
};

// A part of a normalised text, or the ids of a token in it.
struct TextPiece {
  std::u32string text;
  std::vector<int64_t> ids;
};

class AddedTokens {
 public:
  // Normalises a text.
  using Normalize = std::function<std::u32string(const std::u32string&)>;

  // `split_special` treats special tokens in a text as normal text.
  AddedTokens(const std::map<int64_t, AddedToken>& by_id, bool split_special, Normalize normalize);

  // A copy that also has these words. `is_token` returns whether the vocabulary has a word. See
  // CLIPTokenizer::with_words.
  AddedTokens with(const std::vector<AddedWord>& words, const std::function<bool(const std::string&)>& is_token) const;

  std::vector<TextPiece> split(const std::u32string& text) const;

  // Appends the ids of a UTF-8 text. `pre_tokenize(text)` returns the words of a normalised text without added tokens.
  // `encode(word)` returns the ids of a word in UTF-8.
  template <class PreTokenize, class Encode>
  void append_ids(std::vector<int64_t>& ids, std::string_view text, PreTokenize pre_tokenize, Encode encode) const {
    for (const auto& piece : split(from_utf8(text))) {
      ids.insert(ids.end(), piece.ids.begin(), piece.ids.end());
      for (const auto& word : pre_tokenize(piece.text)) {
        auto tokens = encode(to_utf8(word));
        ids.insert(ids.end(), tokens.begin(), tokens.end());
      }
    }
  }

  // The decoded text of a token: its normalised form if it is found in normalised text. nullopt if `id` is not an added
  // token.
  std::optional<std::string_view> token(int64_t id) const;

 private:
  struct Pattern {
    std::u32string text;
    std::vector<int64_t> ids;
    bool single_word, ignored;
  };
  void add_word(const std::string& text, const std::vector<int64_t>& ids, bool single_word);
  static std::vector<TextPiece> split(const std::u32string& text, const std::vector<Pattern>& patterns);

  Normalize normalize_;
  std::map<int64_t, std::string> contents_;
  std::vector<Pattern> raw_, normalized_;
};

}  // namespace lora
