#pragma once
// Escapes for characters that must not go where a text goes. lora/text.h has those of people and JSON.
#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "lora/text.h"

namespace lora {

// C0 and C1 controls, and DEL.
inline bool is_control(char32_t c) { return c < U' ' || (c >= 0x7F && c <= 0x9F); }

// Each character that is `unsafe` becomes \n, \x1b or \u202e, and each byte that is not UTF-8 becomes \xe9.
std::string escaped(std::string_view bytes, bool (*unsafe)(char32_t));

// A line of a report for people, with its end. No argument can begin a line of its own.
template <class... Args>
std::string line(fmt::format_string<Args...> format, Args&&... args) {
  return printable(fmt::format(format, std::forward<Args>(args)...)) + "\n";
}

}  // namespace lora
