#include "tokenizers/added_tokens.h"

#include <algorithm>

#include "core/check.h"
#include "core/utf8.h"
#include "tokenizers/unicode.h"

namespace lora {

AddedTokens::AddedTokens(const std::map<int64_t, AddedToken>& by_id, bool split_special, Normalize normalize)
    : normalize_(std::move(normalize)) {
  for (const auto& [id, token] : by_id) {
    auto text = from_utf8(token.content);
    if (token.normalized) text = normalize_(text);
    contents_[id] = to_utf8(text);
    if (text.empty()) continue;
    auto& patterns = token.normalized ? normalized_ : raw_;
    patterns.push_back({std::move(text), {id}, token.single_word, token.special && split_special});
  }
}

AddedTokens AddedTokens::with(const std::vector<AddedWord>& words,
                              const std::function<bool(const std::string&)>& is_token) const {
  auto all = *this;
  for (const auto& [text, ids, is_no_token] : words) {
    check(!ids.empty(), ErrorKind::usage, "the word \"{}\" has no ids", text);
    bool single_word = is_token(text);
    check(!single_word || !is_no_token, ErrorKind::conflict,
          "the tokenizer has this word as a token: \"{}\". Give another word", text);
    all.add_word(text, ids, single_word);
    for (size_t i = 1; i < ids.size(); ++i) all.add_word(fmt::format("{}_{}", text, i), {ids[i]}, single_word);
  }
  return all;
}

void AddedTokens::add_word(const std::string& text, const std::vector<int64_t>& ids, bool single_word) {
  auto found = normalize_(from_utf8(text));
  check(!std::ranges::all_of(found, is_space), ErrorKind::usage, "\"{}\" is not a word: it has only white space", text);
  for (const auto* patterns : {&raw_, &normalized_})
    for (const auto& pattern : *patterns)
      check(pattern.text != found, ErrorKind::conflict,
            "the word \"{}\" is equal to another word or a special token: \"{}\"", text, to_utf8(pattern.text));
  contents_[ids.front()] = to_utf8(found);
  normalized_.push_back({std::move(found), ids, single_word, false});
}

std::optional<std::string_view> AddedTokens::token(int64_t id) const {
  auto content = contents_.find(id);
  if (content == contents_.end()) return std::nullopt;
  return content->second;
}

std::vector<TextPiece> AddedTokens::split(const std::u32string& text) const {
  std::vector<TextPiece> pieces;
  for (auto& outer : split(text, raw_)) {
    if (!outer.ids.empty()) {
      pieces.push_back(std::move(outer));
      continue;
    }
    for (auto& inner : split(normalize_(outer.text), normalized_)) pieces.push_back(std::move(inner));
  }
  return pieces;
}

std::vector<TextPiece> AddedTokens::split(const std::u32string& text, const std::vector<Pattern>& patterns) {
  std::u32string_view view = text;
  std::vector<TextPiece> pieces;
  size_t begin = 0;  // where the text after the last token begins
  auto flush = [&](size_t end) {
    if (end > begin) pieces.push_back({text.substr(begin, end - begin), {}});
  };
  for (size_t at = 0; at < view.size();) {
    const Pattern* longest = nullptr;
    for (const auto& pattern : patterns)
      if (view.substr(at).starts_with(pattern.text) && (!longest || pattern.text.size() > longest->text.size()))
        longest = &pattern;
    if (!longest) {
      ++at;
      continue;
    }
    size_t end = at + longest->text.size();
    bool alone = (at == 0 || !is_word(view[at - 1])) && (end == view.size() || !is_word(view[end]));
    if (!longest->ignored && (alone || !longest->single_word)) {
      flush(at);
      pieces.push_back({{}, longest->ids});
      begin = end;
    }
    at = end;  // also skips the text of a match that does not count
  }
  flush(text.size());
  return pieces;
}

}  // namespace lora
