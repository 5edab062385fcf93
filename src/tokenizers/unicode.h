#pragma once
// Unicode as in the reference tokenizer. Its classes of characters, its lower case and its NFC come from different
// versions of Unicode. This file fixes those versions, so ids do not depend on the installed ICU.
#include <span>
#include <string>

namespace lora {

bool is_space(char32_t c);
bool is_letter(char32_t c);
bool is_number(char32_t c);
// Whether a character is part of a word, for added tokens with single_word.
bool is_word(char32_t c);

// Converts to NFC, then each run of white space to one space, then each character to lower case.
std::u32string normalized(const std::u32string& text);

// The tables, in unicode_tables.cpp: sorted, without overlaps.
struct CharRange {
  char32_t first, last;
};
struct CaseRange {
  char32_t first, last;  // every `step`-th of them
  int step, shift;       // lower case = character + shift
};
std::span<const CharRange> letter_ranges();
std::span<const CharRange> number_ranges();
std::span<const CaseRange> lower_case_ranges();

}  // namespace lora
