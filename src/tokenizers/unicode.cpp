#include "tokenizers/unicode.h"

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <algorithm>

#include "core/check.h"

namespace lora {

namespace {

// The reference composes characters by Unicode 9.0. Its NFC does not change later characters.
constexpr uint8_t kNfcVersion = 9;
// A text whose characters are all below the first combining mark is in NFC.
constexpr char32_t kFirstMark = 0x300;
// ICU counts UTF-16 units in int32.
constexpr size_t kMostCharacters = 1 << 28;

template <class Range>
const Range* find(std::span<const Range> ranges, char32_t c) {
  auto after =
      std::upper_bound(ranges.begin(), ranges.end(), c, [](char32_t x, const Range& r) { return x < r.first; });
  if (after == ranges.begin() || c > (after - 1)->last) return nullptr;
  return &*(after - 1);
}

bool composes(char32_t c) {
  if (c < kFirstMark) return true;
  UVersionInfo age;
  u_charAge(static_cast<UChar32>(c), age);
  return age[0] <= kNfcVersion;
}

std::u32string icu_nfc(std::u32string_view text) {
  check(text.size() <= kMostCharacters, ErrorKind::usage, "a text has {} characters; at most {} are possible",
        text.size(), kMostCharacters);
  UErrorCode status = U_ZERO_ERROR;
  const auto* nfc = icu::Normalizer2::getNFCInstance(status);
  auto utf32 = reinterpret_cast<const UChar32*>(text.data());
  auto composed = nfc->normalize(icu::UnicodeString::fromUTF32(utf32, static_cast<int32_t>(text.size())), status);
  std::u32string out(static_cast<size_t>(composed.countChar32()), U'\0');
  composed.toUTF32(reinterpret_cast<UChar32*>(out.data()), static_cast<int32_t>(out.size()), status);
  check(U_SUCCESS(status), ErrorKind::unsupported, "ICU cannot normalise the text: {}", u_errorName(status));
  return out;
}

std::u32string nfc(const std::u32string& text) {
  if (std::ranges::all_of(text, [](char32_t c) { return c < kFirstMark; })) return text;
  std::u32string out;
  for (auto at = text.begin(); at != text.end();) {
    auto end = std::find_if_not(at, text.end(), composes);
    out += icu_nfc({at, end});
    at = std::find_if(end, text.end(), composes);
    out.append(end, at);
  }
  return out;
}

void append_lower(std::u32string& out, char32_t c) {
  const auto* range = find(lower_case_ranges(), c);
  if (c == U'\u0130')
    out += U"i\u0307";
  else if (range && (c - range->first) % static_cast<unsigned>(range->step) == 0)
    out += static_cast<char32_t>(static_cast<int>(c) + range->shift);
  else
    out += c;
}

}  // namespace

bool is_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_letter(char32_t c) { return find(letter_ranges(), c); }

bool is_number(char32_t c) { return find(number_ranges(), c); }

bool is_word(char32_t c) {
  auto ch = static_cast<UChar32>(c);
  return u_hasBinaryProperty(ch, UCHAR_ALPHABETIC) || u_hasBinaryProperty(ch, UCHAR_JOIN_CONTROL) ||
         (U_GET_GC_MASK(ch) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK));
}

std::u32string normalized(const std::u32string& text) {
  std::u32string out;
  out.reserve(text.size());
  bool after_space = false;
  for (char32_t c : nfc(text)) {
    bool space = is_space(c);
    if (!space)
      append_lower(out, c);
    else if (!after_space)
      out += U' ';
    after_space = space;
  }
  return out;
}

}  // namespace lora
