#include "grid_ranges.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "check.h"
#include "text_file.h"

namespace lora::cli {

namespace {

template <class Number>
std::optional<Number> whole_text(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool good = error == std::errc() && end == text.data() + text.size() && std::isfinite(double(value));
  return good ? std::optional(value) : std::nullopt;
}

struct Range {
  std::string first, last, step = "1";
  std::optional<std::string> count;
};

// The parts of a range, where the text has its form. A minus after a digit or a point separates the ends.
std::optional<Range> range_of(std::string_view text) {
  Range range;
  if (text.ends_with(']')) {
    const auto open = text.rfind('[');
    if (open == text.npos) return std::nullopt;
    range.count = trimmed(text.substr(open + 1, text.size() - open - 2));
    text = text.substr(0, open);
  } else if (const auto colon = text.find(':'); colon != text.npos) {
    range.step = trimmed(text.substr(colon + 1));
    text = text.substr(0, colon);
  }
  const auto ends = trimmed(text);
  for (size_t at = ends.find('-', 1); at != ends.npos; at = ends.find('-', at + 1)) {
    range.first = trimmed(std::string_view(ends).substr(0, at));
    range.last = trimmed(std::string_view(ends).substr(at + 1));
    if (whole_text<double>(range.first) && whole_text<double>(range.last)) return range;
  }
  return std::nullopt;
}

// As people write it: 0.3, not 0.30000000000000004.
std::string number_text(double value) { return fmt::format("{:.10g}", value == 0 ? 0.0 : value); }

}  // namespace

std::optional<std::vector<std::string>> numbers_of_range(const std::string& label, const std::string& text,
                                                         size_t most) {
  const auto range = range_of(text);
  if (!range) return std::nullopt;
  auto check_most = [&](double count) {
    check(count <= double(most), ErrorKind::usage, "{} {}: has more than {} values", label, text, most);
  };
  std::vector<std::string> numbers;
  const double first = *whole_text<double>(range->first), last = *whole_text<double>(range->last);
  if (range->count) {
    const auto count = whole_text<uint64_t>(*range->count);
    check(count && *count >= 2, ErrorKind::usage, "{} {}: the number in [] must be a whole number, at least 2", label,
          text);
    check_most(double(*count));
    for (uint64_t i = 0; i < *count; ++i)
      numbers.push_back(number_text(first + (last - first) * (double(i) / double(*count - 1))));
    return numbers;
  }
  const auto step = whole_text<double>(range->step);
  check(step && *step > 0, ErrorKind::usage, "{} {}: the step after the colon must be a number above 0", label, text);
  // Whole numbers are exact, also the seeds that a double cannot hold.
  const auto from = whole_text<uint64_t>(range->first), to = whole_text<uint64_t>(range->last),
             by = whole_text<uint64_t>(range->step);
  if (from && to && by) {
    const auto steps = (std::max(*from, *to) - std::min(*from, *to)) / *by;
    check_most(double(steps) + 1);
    for (uint64_t i = 0; i <= steps; ++i)
      numbers.push_back(std::to_string(*from <= *to ? *from + i * *by : *from - i * *by));
    return numbers;
  }
  const double steps = std::floor(std::abs(last - first) / *step + 1e-9);  // the ends of 0-1:0.1 are not exact
  check_most(steps + 1);
  for (uint64_t i = 0; i <= uint64_t(steps); ++i)
    numbers.push_back(number_text(first + (first <= last ? *step : -*step) * double(i)));
  return numbers;
}

}  // namespace lora::cli
