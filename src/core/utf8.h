#pragma once
// UTF-8 and code points.
#include <string>
#include <string_view>

namespace lora {

// The position of the first byte that is not valid UTF-8, or npos. Strict: overlong forms, surrogates and code points
// above U+10FFFF are invalid.
size_t find_invalid_utf8(std::string_view bytes);
inline bool is_utf8(std::string_view bytes) { return find_invalid_utf8(bytes) == bytes.npos; }

// Each maximal invalid part becomes one U+FFFD.
std::u32string from_utf8(std::string_view bytes);
std::string to_utf8(std::u32string_view text);

// The first `most` characters. An invalid part counts as one character.
std::string_view first_characters(std::string_view bytes, size_t most);

}  // namespace lora
