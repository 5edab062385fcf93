#pragma once
// UTF-8 and Latin-1.
#include <optional>
#include <string>
#include <string_view>

namespace lora {

// Strict: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

// nullopt where `utf8` has a character above U+00FF or is not UTF-8.
std::optional<std::string> to_latin1(std::string_view utf8);
std::string from_latin1(std::string_view latin1);

}  // namespace lora
