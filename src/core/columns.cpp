#include "core/columns.h"

#include <unicode/uchar.h>

#include <algorithm>

#include "core/utf8.h"

namespace lora {

namespace {

size_t columns_of(char32_t c) {
  auto code = static_cast<UChar32>(c);
  if (U_GET_GC_MASK(code) & (U_GC_MN_MASK | U_GC_ME_MASK | U_GC_CF_MASK)) return 0;
  auto width = u_getIntPropertyValue(code, UCHAR_EAST_ASIAN_WIDTH);
  return width == U_EA_WIDE || width == U_EA_FULLWIDTH ? 2 : 1;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

}  // namespace

size_t columns_of(std::string_view line) {
  if (is_ascii(line)) return line.size();
  size_t columns = 0;
  for (auto c : from_utf8(line)) columns += columns_of(c);
  return columns;
}

std::string cut_to_columns(std::string_view line, size_t most) {
  if (columns_of(line) <= most) return std::string(line);
  auto text = from_utf8(line);
  size_t columns = 0, kept = 0, kept_columns = 0;  // kept: what leaves room for the "…"
  for (size_t i = 0; i < text.size(); ++i) {
    columns += columns_of(text[i]);
    if (columns < most) kept = i + 1, kept_columns = columns;
  }
  return to_utf8(std::u32string_view(text).substr(0, kept)) + (most > kept_columns ? "…" : "");
}

}  // namespace lora
