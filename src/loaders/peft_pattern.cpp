#include "loaders/peft_pattern.h"

#include <re2/re2.h>

#include <algorithm>
#include <cctype>

#include "core/check.h"

namespace lora {

bool matches_expression(std::string_view path, const std::string& expression, PatternSource source) {
  re2::RE2 compiled(expression, re2::RE2::Quiet);
  check(compiled.ok(), source.kind, "{}: \"{}\" is not a regular expression: {}", source.name, expression,
        compiled.error());
  return re2::RE2::FullMatch(path, compiled);
}

namespace {

// Most patterns are paths themselves, one a layer, and compared as such: making an expression of each, for each layer,
// would take seconds.
bool matches(std::string_view path, const std::string& pattern, PatternSource source) {
  std::string_view name = pattern;
  bool anchored = name.starts_with('^');
  if (anchored) name.remove_prefix(1);
  bool is_path =
      std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.'; });
  if (!is_path) return matches_expression(path, "(.*\\.)?(" + pattern + ")", source);
  if (path.size() < name.size()) return false;
  auto before = path.size() - name.size();
  if (before > 0 && (anchored || path[before - 1] != '.')) return false;
  return std::equal(name.begin(), name.end(), path.begin() + before, [](char a, char b) { return a == b || a == '.'; });
}

}  // namespace

bool matches_pattern(std::string_view path, const std::string& pattern, PatternSource source) {
  constexpr std::string_view kLevel = "text_model.";
  return matches(path, pattern, source) ||
         (path.starts_with(kLevel) && matches(path.substr(kLevel.size()), pattern, source));
}

}  // namespace lora
