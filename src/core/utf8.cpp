#include "core/utf8.h"

#include <unicode/utf8.h>

#include <cstdint>
#include <cstring>

namespace lora {

// Whether `bytes` are eight, and all below 0x80.
static bool are_eight_ascii(std::string_view bytes) {
  uint64_t all;
  if (bytes.size() < sizeof all) return false;
  std::memcpy(&all, bytes.data(), sizeof all);
  return (all & 0x8080808080808080) == 0;
}

size_t find_invalid_utf8(std::string_view bytes) {
  for (size_t next = 0; next < bytes.size();) {
    if (are_eight_ascii(bytes.substr(next, sizeof(uint64_t)))) {
      next += sizeof(uint64_t);
      continue;
    }
    size_t at = next;
    UChar32 c;
    U8_NEXT(bytes.data(), next, bytes.size(), c);
    if (c < 0) return at;
  }
  return bytes.npos;
}

std::u32string from_utf8(std::string_view bytes) {
  std::u32string text;
  text.reserve(bytes.size());
  for (size_t i = 0; i < bytes.size();) {
    UChar32 c;
    U8_NEXT_OR_FFFD(bytes.data(), i, bytes.size(), c);
    text += static_cast<char32_t>(c);
  }
  return text;
}

std::string to_utf8(std::u32string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (char32_t c : text) {
    char encoded[U8_MAX_LENGTH];
    size_t length = 0;
    U8_APPEND_UNSAFE(encoded, length, c);
    bytes.append(encoded, length);
  }
  return bytes;
}

std::string_view first_characters(std::string_view bytes, size_t most) {
  size_t next = 0;
  for (size_t i = 0; i < most && next < bytes.size(); ++i) {
    UChar32 c;
    U8_NEXT(bytes.data(), next, bytes.size(), c);
  }
  return bytes.substr(0, next);
}

}  // namespace lora
