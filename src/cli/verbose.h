#pragma once
// What --verbose tells: the steps of the work, with times, on stderr.
#include <CLI/CLI.hpp>
#include <string_view>

namespace lora::cli {

// Declares --verbose, which takes effect while the command line is parsed.
void declare_verbose(CLI::App& command);
bool is_verbose();
// With --verbose: "lora: 1.24 s: TEXT" on stderr, with the time since the command began.
void tell_verbose(std::string_view text);

}  // namespace lora::cli
