#pragma once
// Styles of prompts, as A1111 keeps them in styles.csv.
#include <filesystem>
#include <string>
#include <vector>

#include "prompt_lines.h"

namespace lora::cli {

struct Style {
  std::string name, prompt, negative_prompt;
};

// The styles of a file, in the order of their names here. The first line of the file names its columns: name, prompt
// and negative_prompt. Throws Error{usage} for a name that the file does not have or has twice, Error{bad_file} with
// the number of a wrong line, and as read_text_file() does.
std::vector<Style> read_styles(const std::filesystem::path& file, const std::vector<std::string>& names);

// Puts the text into the style's `{prompt}`. A style without it follows the text, after a comma.
std::string styled(const std::string& text, const std::string& style);

// Applies a style to a prompt and its negative prompt.
void apply_style(const Style& style, PromptLine& line);

}  // namespace lora::cli
