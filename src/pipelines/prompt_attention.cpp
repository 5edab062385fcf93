#include "pipelines/prompt_attention.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <utility>

#include "core/utf8.h"
#include "tokenizers/unicode.h"

namespace lora {

namespace {

constexpr double kRound = 1.1, kSquare = 1 / 1.1;
constexpr std::u32string_view kMarks = U"\\()[]:", kBreak = U"BREAK";

struct Part {
  std::u32string text;
  double weight = 1;
  bool begins_chunk = false;
};

class Parser {
 public:
  explicit Parser(std::u32string_view text) : text_(text) {}

  std::vector<WeightedText> parse() {
    while (at_ < text_.size()) read();
    for (auto first : round_) multiply_from(first, kRound);
    for (auto first : square_) multiply_from(first, kSquare);
    return merged();
  }

 private:
  std::u32string_view text_;
  size_t at_ = 0;
  std::vector<Part> parts_;
  std::vector<size_t> round_, square_;  // the first part in each open bracket

  void read();
  void read_escape();
  void read_text();
  bool read_weight();
  void add(std::u32string_view text, bool begins_chunk = false) {
    parts_.push_back({.text = std::u32string(text), .begins_chunk = begins_chunk});
  }
  void multiply_from(size_t first, double factor) {
    constexpr double kMost = std::numeric_limits<float>::max();
    for (size_t i = first; i < parts_.size(); ++i)
      parts_[i].weight = std::clamp(parts_[i].weight * factor, -kMost, kMost);
  }
  // Ends the innermost open bracket.
  void close(std::vector<size_t>& open, double factor) {
    multiply_from(open.back(), factor);
    open.pop_back();
  }
  std::vector<WeightedText> merged() const;
};

void Parser::read() {
  const auto c = text_[at_];
  if (c == U':' && read_weight()) return;
  if (kMarks.find(c) == kMarks.npos) return read_text();
  if (c == U'\\') return read_escape();
  ++at_;
  if (c == U'(')
    round_.push_back(parts_.size());
  else if (c == U'[')
    square_.push_back(parts_.size());
  else if (c == U')' && !round_.empty())
    close(round_, kRound);
  else if (c == U']' && !square_.empty())
    close(square_, kSquare);
  else
    add({&c, 1});
}

void Parser::read_escape() {
  const auto next = text_.substr(at_ + 1, 1);
  const bool escapes = !next.empty() && next != U":" && kMarks.find(next) != kMarks.npos;
  if (escapes) add(next);
  at_ += escapes ? 2 : 1;
}

// Text up to the next mark, cut at each BREAK.
void Parser::read_text() {
  const auto run = text_.substr(at_, text_.find_first_of(kMarks, at_) - at_);
  at_ += run.size();
  auto is_in_word = [&](size_t i) { return i < run.size() && is_word(run[i]); };
  size_t begin = 0;
  bool after_break = false;
  for (size_t found = run.find(kBreak); found != run.npos; found = run.find(kBreak, found + 1)) {
    auto next = found + kBreak.size();
    if ((found > 0 && is_in_word(found - 1)) || is_in_word(next)) continue;
    auto end = found;
    while (end > begin && is_space(run[end - 1])) --end;
    add(run.substr(begin, end - begin), std::exchange(after_break, true));
    while (next < run.size() && is_space(run[next])) ++next;
    begin = next;
  }
  add(run.substr(begin), after_break);
}

// `:1.3)`, the end of a round bracket. Returns false, and reads nothing, where it is something else.
bool Parser::read_weight() {
  if (round_.empty()) return false;
  auto after_space = [&](size_t i) {
    while (i < text_.size() && is_space(text_[i])) ++i;
    return i;
  };
  auto i = after_space(at_ + 1);
  if (i < text_.size() && text_[i] == U'+') ++i;
  std::string digits;
  for (; i < text_.size() && text_[i] < 0x80; ++i) {
    const char c = char(text_[i]);
    if (c != '.' && !(c >= '0' && c <= '9') && !(c == '-' && digits.empty() && text_[i - 1] != U'+')) break;
    digits += c;
  }
  i = after_space(i);
  if (i == text_.size() || text_[i] != U')') return false;
  double factor = 0;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), factor);
  if (error != std::errc() || end != digits.data() + digits.size()) return false;
  close(round_, factor);
  at_ = i + 1;
  return true;
}

std::vector<WeightedText> Parser::merged() const {
  if (parts_.empty()) return {{}};
  std::vector<WeightedText> all;
  for (const auto& part : parts_) {
    if (all.empty() || part.begins_chunk || part.weight != all.back().weight)
      all.push_back({"", part.weight, part.begins_chunk});
    all.back().text += to_utf8(part.text);
  }
  return all;
}

}  // namespace

std::vector<WeightedText> parse_prompt_attention(std::string_view prompt) {
  const auto text = from_utf8(prompt);
  return Parser(text).parse();
}

}  // namespace lora
