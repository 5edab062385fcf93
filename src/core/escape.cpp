#include "core/escape.h"

#include <unicode/utf8.h>

namespace lora {

namespace {

// Characters that change the order of a line, that break it, or that nobody sees. Without U+200C and U+200D, which
// words and emoji need.
bool is_hidden(char32_t c) {
  constexpr std::pair<char32_t, char32_t> kRanges[] = {{0x061C, 0x061C}, {0x200B, 0x200B},  {0x200E, 0x200F},
                                                       {0x2028, 0x202E}, {0x2060, 0x206F},  {0xFEFF, 0xFEFF},
                                                       {0xFFF9, 0xFFFB}, {0xE0000, 0xE007F}};
  for (auto [first, last] : kRanges)
    if (c >= first && c <= last) return true;
  return false;
}

std::string escape(char32_t c) {
  if (c == U'\n') return "\\n";
  if (c == U'\r') return "\\r";
  if (c == U'\t') return "\\t";
  const auto number = static_cast<uint32_t>(c);
  return c < 0x80      ? fmt::format("\\x{:02x}", number)
         : c < 0x10000 ? fmt::format("\\u{:04x}", number)
                       : fmt::format("\\U{:08x}", number);
}

}  // namespace

std::string escaped(std::string_view bytes, bool (*unsafe)(char32_t)) {
  std::string text;
  text.reserve(bytes.size());
  for (size_t next = 0; next < bytes.size();) {
    const size_t at = next;
    UChar32 c;
    U8_NEXT(bytes.data(), next, bytes.size(), c);
    if (c < 0)
      for (size_t i = at; i < next; ++i) text += fmt::format("\\x{:02x}", static_cast<unsigned char>(bytes[i]));
    else if (unsafe(static_cast<char32_t>(c)))
      text += escape(static_cast<char32_t>(c));
    else
      text.append(bytes, at, next - at);
  }
  return text;
}

std::string printable(std::string_view text) {
  return escaped(text, [](char32_t c) { return is_control(c) || is_hidden(c); });
}

std::string valid_utf8(std::string_view bytes) {
  return escaped(bytes, [](char32_t) { return false; });
}

}  // namespace lora
