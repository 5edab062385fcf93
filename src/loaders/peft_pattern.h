#pragma once
// The rules by which PEFT's configs name layers.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lora/error.h"

namespace lora {

// Who gave a pattern, for errors about it.
struct PatternSource {
  ErrorKind kind;
  const char* name;
};

// Whether an expression matches a whole path. Throws Error for text that is no regular expression.
bool matches_expression(std::string_view path, const std::string& expression, PatternSource source);
// PEFT's rule for patterns: `(.*\.)?(pattern)` is the whole path. A text encoder's path may lack `text_model.`, as
// transformers 5 has it.
bool matches_pattern(std::string_view path, const std::string& pattern, PatternSource source);

// The value of the first pattern that matches.
template <class Value>
Value by_pattern(const std::vector<std::pair<std::string, Value>>& patterns, std::string_view path, Value otherwise,
                 PatternSource source) {
  for (const auto& [pattern, value] : patterns)
    if (matches_pattern(path, pattern, source)) return value;
  return otherwise;
}

}  // namespace lora
