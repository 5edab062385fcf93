#include "core/json_cursor.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/check.h"
#include "core/utf8.h"

namespace lora {

namespace {

constexpr std::string_view kSpace = " \t\n\r";
constexpr size_t kShown = 20;  // characters of the text in a message

char escape_of(char c) {
  constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
  auto at = kNames.find(c);
  return at == kNames.npos ? '\0' : kMeanings[at];
}

bool is_high_surrogate(unsigned unit) { return unit >= 0xD800 && unit < 0xDC00; }
bool is_low_surrogate(unsigned unit) { return unit >= 0xDC00 && unit < 0xE000; }

}  // namespace

void JsonCursor::wrong(const char* expected) {
  auto found = at_ < text_.size() ? fmt::format("`{}`", first_characters(text_.substr(at_), kShown)) : "the end";
  fail(ErrorKind::bad_file, "{}: malformed JSON at byte {}: {} was expected, {} came", source_, at_, expected, found);
}

char JsonCursor::peek() {
  while (at_ < text_.size() && kSpace.find(text_[at_]) != kSpace.npos) ++at_;
  return at_ < text_.size() ? text_[at_] : '\0';
}

void JsonCursor::take(char expected) {
  char quoted[] = {'`', expected, '`', '\0'};
  if (peek() != expected) wrong(quoted);
  ++at_;
}

bool JsonCursor::open(char bracket, char closing) {
  take(bracket);
  if (peek() != closing) return true;
  ++at_;
  return false;
}

bool JsonCursor::next(char closing) {
  bool more = peek() == ',';
  take(more ? ',' : closing);
  return more;
}

void JsonCursor::end() {
  if (peek() != '\0' || at_ < text_.size()) wrong("the end");
}

bool JsonCursor::skip_string() {
  bool escapes = false;
  while (at_ < text_.size() && text_[at_] != '"') {
    if (static_cast<unsigned char>(text_[at_]) < 0x20) wrong("no control character");
    bool escape = text_[at_] == '\\';
    escapes |= escape;
    at_ += escape ? 2 : 1;
  }
  if (at_ >= text_.size()) wrong("the end of a string");
  ++at_;
  return escapes;
}

std::string_view JsonCursor::string() {
  if (peek() != '"') wrong("a string");
  size_t begin = ++at_;
  bool escapes = skip_string();
  auto written = text_.substr(begin, at_ - 1 - begin);
  if (!escapes) return written;
  unescaped_.reserve(text_.size());
  size_t start = unescaped_.size();
  unescape(written);
  return std::string_view(unescaped_).substr(start);
}

unsigned JsonCursor::hex4(std::string_view escaped, size_t at) {
  unsigned unit = 0;
  auto digits = escaped.substr(std::min(at, escaped.size()), 4);
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), unit, 16);
  if (digits.size() < 4 || error != std::errc() || end != digits.data() + 4)
    wrong("four hexadecimal digits in the string before");
  return unit;
}

void JsonCursor::unescape(std::string_view escaped) {
  for (size_t i = 0; i < escaped.size();) {
    if (escaped[i] != '\\') {
      unescaped_ += escaped[i++];
    } else if (char c = escape_of(escaped[i + 1])) {
      unescaped_ += c;
      i += 2;
    } else {
      if (escaped[i + 1] != 'u') wrong("a known escape in the string before");
      char32_t point = hex4(escaped, i + 2);
      i += 6;
      if (is_high_surrogate(point) && escaped.substr(i).starts_with("\\u")) {
        unsigned low = hex4(escaped, i + 2);
        if (is_low_surrogate(low)) point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00), i += 6;
      }
      if (is_high_surrogate(point) || is_low_surrogate(point)) wrong("a whole surrogate pair in the string before");
      unescaped_ += to_utf8({&point, 1});
    }
  }
}

int64_t JsonCursor::integer() {
  auto value = try_integer<int64_t>();
  if (!value) wrong("a whole number");
  return *value;
}

// `digits` may begin with a minus.
bool JsonCursor::is_whole_number(std::string_view digits, std::string_view rest) {
  if (digits.starts_with('-')) digits.remove_prefix(1);
  bool leading_zero = digits.size() > 1 && digits[0] == '0';
  bool goes_on = !rest.empty() && std::string_view(".eE").find(rest[0]) != std::string_view::npos;
  return !leading_zero && !goes_on;
}

double JsonCursor::number() {
  peek();
  double value = 0;
  auto begin = text_.data() + at_;
  auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
  // from_chars also reads "inf" and "nan", which are not JSON.
  bool starts = at_ < text_.size() && (*begin == '-' || (*begin >= '0' && *begin <= '9'));
  if (!starts || error != std::errc() || !std::isfinite(value)) wrong("a number");
  at_ += static_cast<size_t>(end - begin);
  return value;
}

std::string_view JsonCursor::raw() {
  peek();
  size_t begin = at_;
  for (int64_t depth = 0; at_ < text_.size();) {
    char c = text_[at_];
    bool separator = c == ',' || c == ':' || kSpace.find(c) != kSpace.npos;
    bool closes = c == ']' || c == '}';
    if (depth == 0 && (separator || closes)) break;
    ++at_;
    if (c == '"') skip_string();
    if (c == '[' || c == '{') ++depth;
    if (closes && --depth == 0) break;
  }
  if (at_ == begin) wrong("a value");
  return text_.substr(begin, at_ - begin);
}

std::string JsonCursor::described() {
  switch (peek()) {
    case '{': return "an object";
    case '[': return "a list";
    case '"': return "text";
    case '\0': return "nothing";
    default: return std::string(first_characters(raw(), 2 * kShown));
  }
}

}  // namespace lora
