#include "tokenizers/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "tokenizers/unicode.h"

namespace lora {

using std::u32string_view;

namespace {

constexpr std::array<u32string_view, 7> kContractions{U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"};

// The reference separates these from the text around them, then splits them again by another pattern.
constexpr std::array<std::array<u32string_view, 3>, 2> kMarkers{
    {{U"<|", U"startoftext", U"|>"}, {U"<|", U"endoftext", U"|>"}}};

size_t contraction_length(u32string_view text) {
  auto found = std::ranges::find_if(kContractions, [&](auto word) { return text.starts_with(word); });
  return found == kContractions.end() ? 0 : found->size();
}

bool starts_with(u32string_view text, const std::array<u32string_view, 3>& marker) {
  for (auto part : marker) {
    if (!text.starts_with(part)) return false;
    text.remove_prefix(part.size());
  }
  return true;
}

bool is_other(char32_t c) { return !is_space(c) && !is_letter(c) && !is_number(c); }

template <class Is>
size_t run_length(u32string_view text, Is is) {
  return static_cast<size_t>(std::ranges::find_if_not(text, is) - text.begin());
}

size_t word_length(u32string_view text) {
  if (size_t length = contraction_length(text)) return length;
  if (size_t length = run_length(text, is_letter)) return length;
  if (is_number(text.front())) return 1;
  return run_length(text, is_other);
}

}  // namespace

std::vector<u32string_view> pre_tokenize(u32string_view text) {
  std::vector<u32string_view> words;
  auto take = [&](size_t length) {
    words.push_back(text.substr(0, length));
    text.remove_prefix(length);
  };
  while (!text.empty()) {
    auto marker = std::ranges::find_if(kMarkers, [&](const auto& m) { return starts_with(text, m); });
    if (is_space(text.front()))
      text.remove_prefix(1);
    else if (marker != kMarkers.end())
      for (auto part : *marker) take(part.size());
    else
      take(word_length(text));
  }
  return words;
}

}  // namespace lora
