#pragma once
// How wide text is on a terminal.
#include <cstddef>
#include <string>
#include <string_view>

namespace lora {

// The columns of one line without control characters: two for a wide character (Chinese, Japanese, Korean, emoji), none
// for a mark that goes onto the character before it.
size_t columns_of(std::string_view line);
// The beginning of the line that takes at most so many columns. Where something is cut off, it ends with "…".
std::string cut_to_columns(std::string_view line, size_t most);

}  // namespace lora
