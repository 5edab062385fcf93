#include "dtype_argument.h"

#include <fmt/ranges.h>

#include "check.h"

namespace lora::cli {

namespace {

struct Name {
  const char *short_name, *name;
};
constexpr Name kNames[] = {{"fp32", "float32"}, {"bf16", "bfloat16"}, {"fp16", "float16"}};

}  // namespace

std::vector<std::string> dtype_names() {
  std::vector<std::string> names;
  for (const auto& each : kNames) names.insert(names.end(), {each.short_name, each.name});
  return names;
}

std::string dtype_help(const std::string& meaning) {
  return fmt::format("{} {}", fmt::join(dtype_names(), ", "), meaning);
}

void declare_dtype(CLI::App& command, std::string& dtype, const std::string& meaning) {
  command.add_option("--dtype", dtype, dtype_help(meaning))->type_name("DTYPE");
}

std::optional<Dtype> dtype_of(const std::string& text) {
  if (text.empty()) return std::nullopt;
  for (const auto& each : kNames)
    if (text == each.short_name || text == each.name) return parse_dtype(each.name);
  throw Error(ErrorKind::usage,
              fmt::format("--dtype {}: no such dtype. Give {}.", text, fmt::join(dtype_names(), ", ")));
}

}  // namespace lora::cli
