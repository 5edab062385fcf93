#pragma once
// Small text functions that the standard library lacks.
#include <string>
#include <string_view>
#include <vector>

namespace lora {

std::vector<std::string> split(std::string_view text, char separator);
std::string join(const std::vector<std::string>& parts, std::string_view separator);
// Every `from` in `text` becomes `to`.
std::string replace_all(std::string text, std::string_view from, std::string_view to);
// The candidate with the smallest edit distance to `word`, or "" where none is near enough to be a slip of the
// fingers. For "did you mean …?" in messages.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);
// "a, b, c", cut after `most` with "… (12 in all)".
std::string listing(const std::vector<std::string>& items, size_t most = 8);

}  // namespace lora
