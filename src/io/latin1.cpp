#include "io/latin1.h"

#include <algorithm>

#include "core/utf8.h"

namespace lora {

std::optional<std::string> to_latin1(std::string_view utf8) {
  if (!is_utf8(utf8)) return std::nullopt;
  auto text = from_utf8(utf8);
  if (std::ranges::any_of(text, [](char32_t c) { return c > 0xFF; })) return std::nullopt;
  return std::string(text.begin(), text.end());
}

std::string from_latin1(std::string_view latin1) {
  std::u32string text;
  for (unsigned char byte : latin1) text += char32_t{byte};
  return to_utf8(text);
}

}  // namespace lora
