#pragma once
// Numbers in texts.
#include <charconv>
#include <cmath>
#include <concepts>
#include <string>

#include "check.h"

namespace lora::cli {

// The number that a text is: a whole number above 0, or a finite number where Number is a floating-point type. Throws
// Error{usage} for another text: "LABEL TEXT: must be WHAT".
template <class Number>
Number number(const std::string& label, const std::string& text, const char* what) {
  Number value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size() && std::isfinite(double(value));
  check(whole && (std::floating_point<Number> || value > 0), ErrorKind::usage, "{} {}: must be {}", label, text, what);
  return value;
}

inline constexpr const char* kWholeNumber = "a whole number above 0";
inline constexpr const char* kAnyNumber = "a number";

}  // namespace lora::cli
