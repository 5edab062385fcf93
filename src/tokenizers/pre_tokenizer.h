#pragma once
// CLIP's pre-tokenizer: splits a text into the words that byte-pair encoding is applied to, one by one.
#include <string>
#include <string_view>
#include <vector>

namespace lora {

// The words of a normalised text: contractions, runs of letters, single digits, runs of other characters. White space
// separates words and belongs to none of them.
std::vector<std::u32string_view> pre_tokenize(std::u32string_view text);

}  // namespace lora
