#pragma once
// All that the command takes, as one tree. The completions of shells and the manual page are made of it.
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace lora::cli {

// An option, or an argument without a name of its own.
struct OutlineOption {
  std::vector<std::string> names;   // "-o", "--output"; of an argument "MODEL"
  std::string value;                // how the help calls its value, such as FILE; empty for a flag
  std::vector<std::string> values;  // those that it can have, where they are few
  std::string help;
  bool is_argument = false, required = false, repeats = false;

  bool is_flag() const { return value.empty(); }
  bool takes_folder() const { return value.starts_with("DIR"); }
  bool takes_path() const { return value.starts_with("FILE") || value.starts_with("PATH"); }
};

struct OutlineVerb {
  std::vector<std::string> words;  // "cache", "list"; empty for the command itself
  std::string help, footer;
  std::vector<OutlineOption> options;  // in the order of the help
  std::vector<OutlineVerb> verbs;

  std::vector<OutlineOption> arguments() const;
};

OutlineVerb outline(const CLI::App& app);

// The verb and all below it, each before its own verbs.
std::vector<const OutlineVerb*> all_verbs(const OutlineVerb& verb);

// The first sentence of a help text, without its point. Cut where it is too long for a list.
std::string short_help(const std::string& help);

}  // namespace lora::cli
