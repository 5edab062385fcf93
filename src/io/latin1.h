#pragma once
// Latin-1 and UTF-8.
#include <optional>
#include <string>
#include <string_view>

namespace lora {

// nullopt if `utf8` has a character above U+00FF or is not valid UTF-8.
std::optional<std::string> to_latin1(std::string_view utf8);
std::string from_latin1(std::string_view latin1);

}  // namespace lora
