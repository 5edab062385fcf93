#pragma once
// CLIP's words: what byte-pair encoding is applied to, one by one.
#include <string>
#include <string_view>
#include <vector>

namespace lora {

// The words of a normalised text: contractions, runs of letters, single digits, runs of anything else. White space
// only separates.
std::vector<std::u32string_view> split_words(std::u32string_view text);

}  // namespace lora
