#pragma once
// Small text functions that the standard library does not have.
#include <charconv>
#include <concepts>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

std::vector<std::string> split(std::string_view text, char separator);
// Without white space at its ends.
std::string_view trimmed(std::string_view text);
std::string join(const std::vector<std::string>& parts, std::string_view separator);
// Replaces every `from` in `text` by `to`.
std::string replace_all(std::string text, std::string_view from, std::string_view to);
// The candidate with the smallest edit distance to `word`, or "" if no candidate is near enough for a typing error. For
// "did you mean …?" in messages.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);
// The number that the whole text is in decimal digits, or nullopt.
template <std::integral Integer>
std::optional<Integer> parse_integer(std::string_view text) {
  Integer value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "1 layer", "3 layers".
std::string counted(size_t n, std::string_view noun);
// "a, b, c", cut after `most` with "… (12 in all)".
std::string listing(const std::vector<std::string>& items, size_t most = 8);

}  // namespace lora
