#pragma once
// What the help says beside each option's own text: its group, what its value is, and examples of each verb.
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace lora::cli {

// Puts the options of each verb with many options into groups, names their values, and adds examples. Call it when all
// verbs are declared.
void arrange_help(CLI::App& app);

// The values that an option can have, where they are few and its help text alone names them.
std::vector<std::string> values_of(const CLI::Option& option);

}  // namespace lora::cli
