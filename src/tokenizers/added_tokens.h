#pragma once
// Tokens that are recognised as a whole wherever they stand in a text, before words are looked for: the special tokens,
// and those added to a vocabulary later.
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lora/added_word.h"

namespace lora {

struct AddedToken {
  std::string content;
  bool normalized = false;   // looked for in the normalised text; else in the text as given
  bool single_word = false;  // only where no word goes on before or behind it
  bool special = true;

  // White space taken in on the left or right. It would be dropped anyway, so that these change nothing but whether two
  // definitions are the same.
  bool lstrip = false, rstrip = false;
  bool plain = false;  // given as a string alone

  bool operator==(const AddedToken&) const = default;
};

// A stretch of normalised text, or the ids of a token found in it.
struct TextPiece {
  std::u32string text;
  std::vector<int64_t> ids;
};

class AddedTokens {
 public:
  // How text is normalised before it is taken apart.
  using Normalize = std::function<std::u32string(const std::u32string&)>;

  // `split_special` leaves special tokens in the text as other text.
  AddedTokens(const std::map<int64_t, AddedToken>& by_id, bool split_special, Normalize normalize);

  // These with words beside them; `is_token` says which of them the vocabulary has. See CLIPTokenizer::with_words.
  AddedTokens with(const std::vector<AddedWord>& words, const std::function<bool(const std::string&)>& is_token) const;

  std::vector<TextPiece> split(const std::u32string& text) const;
  // What a token is decoded to: its normalised form where that is looked for. Nothing where `id` is no added token.
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
