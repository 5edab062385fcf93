#pragma once
// --dtype on the command line.
#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lora/tensor.h"

namespace lora::cli {

// fp32, bf16, fp16, and torch's own names for them.
std::vector<std::string> dtype_names();
// The help of --dtype: the names, and then what the dtype is of.
std::string dtype_help(const std::string& meaning);
// Declares --dtype.
void declare_dtype(CLI::App& command, std::string& dtype, const std::string& meaning);
// The dtype that the text names; an empty text gives no dtype. Throws Error{usage} for a name outside dtype_names().
std::optional<Dtype> dtype_of(const std::string& text);

}  // namespace lora::cli
