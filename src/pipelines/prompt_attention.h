#pragma once
// A1111's syntax of prompts: weights of words, and BREAK.
#include <string>
#include <string_view>
#include <vector>

namespace lora {

// A part of a prompt whose tokens all have one weight.
struct WeightedText {
  std::string text;           // valid UTF-8
  double weight = 1;          // finite
  bool begins_chunk = false;  // BREAK stands before it

  bool operator==(const WeightedText&) const = default;
};

// The parts of a prompt, at least one. Neighbours differ in weight, or BREAK separates them.
//   (x)  [x]  (x:1.3)      the weight × 1.1, ÷ 1.1, × 1.3; nested weights multiply
//   \(  \)  \[  \]  \\     the second character; any other backslash is left out
//   BREAK                  as a word of its own, also inside brackets
// A bracket without its end acts to the end of the prompt. A closing bracket alone is text. A number that is wrong is
// text too. Never throws for what a prompt says. Bytes that are not UTF-8 become U+FFFD.
std::vector<WeightedText> parse_prompt_attention(std::string_view prompt);

}  // namespace lora
