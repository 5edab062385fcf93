#include "prompt_lines.h"

#include <cctype>
#include <charconv>
#include <random>
#include <set>
#include <string_view>

#include "check.h"
#include "number.h"
#include "text_file.h"

namespace lora::cli {

namespace {

// The next "--" that begins a word.
size_t next_flag(std::string_view line, size_t from) {
  for (auto at = line.find("--", from); at != line.npos; at = line.find("--", at + 1))
    if (at == 0 || kSpace.find(line[at - 1]) != kSpace.npos) return at;
  return line.npos;
}

void set_flag(PromptLine& line, const std::string& name, const std::string& value, int count) {
  const auto label = line.place + ": --" + name;
  const char flag = name.size() == 1 ? char(std::tolower(static_cast<unsigned char>(name[0]))) : '\0';
  check(flag != '\0' && std::string_view("nwhdls").find(flag) != std::string_view::npos, ErrorKind::usage,
        "{} is not known. A line takes --n NEGATIVE, --w WIDTH, --h HEIGHT, --d SEED, --l CFG and --s STEPS.", label);
  check(!value.empty(), ErrorKind::usage, "{} has no value", label);
  if (flag == 'n') line.negative = value;
  if (flag == 'w') line.width = number<int>(label, value, kWholeNumber);
  if (flag == 'h') line.height = number<int>(label, value, kWholeNumber);
  if (flag == 's') line.steps = number<int>(label, value, kWholeNumber);
  if (flag == 'l') line.cfg = number<double>(label, value, kAnyNumber);
  if (flag == 'd') line.seed = parse_seed(label, value, count);
}

PromptLine parse_line(std::string_view text, const std::string& place, int count) {
  auto at = next_flag(text, 0);
  PromptLine line{.place = place, .prompt = trimmed(text.substr(0, at))};
  check(!line.prompt.empty(), ErrorKind::usage, "{}: has no prompt before its flags", place);
  std::set<int> flags;
  while (at != text.npos) {
    const auto end = next_flag(text, at + 2);
    const auto flag = text.substr(at + 2, end - at - 2);
    const auto space = std::min(flag.find_first_of(kSpace), flag.size());
    const auto name = std::string(flag.substr(0, space));
    set_flag(line, name, trimmed(flag.substr(space)), count);
    check(flags.insert(std::tolower(static_cast<unsigned char>(name[0]))).second, ErrorKind::usage,
          "{}: --{} is there twice", place, name);
    at = end;
  }
  return line;
}

}  // namespace

std::vector<PromptLine> read_prompt_lines(const std::filesystem::path& file, int count) {
  const auto text = read_text_file("--prompts", file);
  std::vector<PromptLine> lines;
  size_t number = 0;
  for (size_t begin = 0, end = 0; end != text.npos; begin = end + 1) {
    end = text.find('\n', begin);
    const auto line = trimmed(std::string_view(text).substr(begin, end - begin));
    ++number;
    if (!line.empty() && line[0] != '#')
      lines.push_back(parse_line(line, fmt::format("--prompts {}:{}", file.string(), number), count));
  }
  check(!lines.empty(), ErrorKind::usage, "--prompts {}: has no prompts. Write one a line.", file.string());
  return lines;
}

uint64_t parse_seed(const std::string& label, const std::string& text, int count) {
  if (text == "-1") return std::random_device()();
  uint64_t seed = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  check(error == std::errc() && end == text.data() + text.size(), ErrorKind::usage,
        "{} {}: must be a whole number from 0 to 18446744073709551615, or -1 for a random one", label, text);
  check(seed + uint64_t(count - 1) >= seed, ErrorKind::usage,
        "{} {}: the seeds of {} pictures go over 18446744073709551615, the largest seed", label, text, count);
  return seed;
}

}  // namespace lora::cli
