#pragma once
// A file of prompts: one picture a line.
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace lora::cli {

// What one picture is drawn of. A value that is not there is that of the command's option.
struct PromptLine {
  std::string place;  // "--prompts FILE:3", for messages; empty for the prompt of --prompt
  std::string prompt;
  std::optional<std::string> negative;
  std::optional<int> width, height, steps;
  std::optional<uint64_t> seed;
  std::optional<double> cfg;
};

// The lines of a file. Empty lines, and lines that begin with #, are left out. The flags are those of kohya's sample
// prompts, in upper or lower case:
//   TEXT --n NEGATIVE --w WIDTH --h HEIGHT --d SEED --l CFG --s STEPS
// `count` pictures are drawn of each line. Throws Error{usage} that names the file and the number of a wrong line, for
// a file without prompts, and as read_text_file() does.
std::vector<PromptLine> read_prompt_lines(const std::filesystem::path& file, int count);

// The seed of the first of `count` pictures: a whole number, or -1 for a random one. Throws Error{usage} that begins
// with `label`.
uint64_t parse_seed(const std::string& label, const std::string& text, int count);

}  // namespace lora::cli
