#pragma once
// Text as the reference tokenizer sees it. Its classes of characters, its lower case and its NFC come from different
// versions of Unicode; those are pinned here, so that ids do not depend on the ICU that is installed.
#include <span>
#include <string>
#include <string_view>

namespace lora {

// Each maximal invalid part becomes one U+FFFD.
std::u32string from_utf8(std::string_view bytes);
std::string to_utf8(std::u32string_view text);

bool is_space(char32_t c);
bool is_letter(char32_t c);
bool is_number(char32_t c);
// Part of a word, for added tokens that stand only between words.
bool is_word(char32_t c);

// NFC, then each run of white space as one space, then lower case, character by character.
std::u32string normalized(const std::u32string& text);

// The tables, in unicode_tables.cpp: sorted, without overlaps.
struct CharRange {
  char32_t first, last;
};
struct CaseRange {
  char32_t first, last;  // every `step`-th of them
  int step, shift;       // the lower case is `shift` further on
};
std::span<const CharRange> letter_ranges();
std::span<const CharRange> number_ranges();
std::span<const CaseRange> lower_case_ranges();

}  // namespace lora
