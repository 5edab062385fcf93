#include "io/encoding.h"

#include <cstdint>

namespace lora {

namespace {

// The code point at `position`, which moves past it; nullopt where the bytes there are not UTF-8.
std::optional<uint32_t> next_code_point(std::string_view text, size_t& position) {
  auto lead = static_cast<uint8_t>(text[position]);
  size_t length = lead < 0x80             ? 1
                  : (lead & 0xE0) == 0xC0 ? 2
                  : (lead & 0xF0) == 0xE0 ? 3
                  : (lead & 0xF8) == 0xF0 ? 4
                                          : 0;
  if (length == 0 || position + length > text.size()) return std::nullopt;
  uint32_t code = length == 1 ? lead : lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    auto byte = static_cast<uint8_t>(text[position + i]);
    if ((byte & 0xC0) != 0x80) return std::nullopt;
    code = (code << 6) | (byte & 0x3Fu);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return std::nullopt;
  position += length;
  return code;
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (size_t position = 0; position < text.size();)
    if (!next_code_point(text, position)) return false;
  return true;
}

std::optional<std::string> to_latin1(std::string_view utf8) {
  std::string latin1;
  for (size_t position = 0; position < utf8.size();) {
    auto code = next_code_point(utf8, position);
    if (!code || *code > 0xFF) return std::nullopt;
    latin1.push_back(static_cast<char>(*code));
  }
  return latin1;
}

std::string from_latin1(std::string_view latin1) {
  std::string utf8;
  for (char c : latin1) {
    auto byte = static_cast<uint8_t>(c);
    if (byte < 0x80) {
      utf8.push_back(c);
    } else {
      utf8.push_back(static_cast<char>(0xC0 | (byte >> 6)));
      utf8.push_back(static_cast<char>(0x80 | (byte & 0x3F)));
    }
  }
  return utf8;
}

}  // namespace lora
