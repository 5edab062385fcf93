#pragma once
// Prompts on the command line.
#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lora/call_options.h"
#include "prompt_lines.h"

namespace lora::cli {

struct PromptArguments {
  std::optional<std::string> prompt, prompt_2, prompt_3, negative;
  std::string file, syntax = "attention", styles_file;
  std::vector<std::string> styles;

  // Declares --prompt, --prompt-2, --prompt-3, --negative, --prompts, --prompt-syntax, --style and --styles.
  void declare(CLI::App& command);

  // What to draw, `count` pictures of each: one prompt, or those of --prompts. Reads stdin for "-", and applies the
  // styles. Throws Error{usage} for options that do not go together, and as read_prompt_lines() and read_styles() do.
  std::vector<PromptLine> lines(int count) const;
  PromptSyntax prompt_syntax() const { return syntax == "plain" ? PromptSyntax::plain : PromptSyntax::attention; }
};

}  // namespace lora::cli
