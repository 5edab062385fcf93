#pragma once
// The subcommands. Each function declares one under `app`; the subcommand runs while `app` parses the command line.
#include <CLI/CLI.hpp>

namespace lora::cli {

void declare_generate(CLI::App& app);
void declare_grid(CLI::App& app);
void declare_info(CLI::App& app);
void declare_list(CLI::App& app);
void declare_inspect(CLI::App& app);
void declare_convert(CLI::App& app);
void declare_fuse(CLI::App& app);
void declare_forward(CLI::App& app);
void declare_download(CLI::App& app);
void declare_cache(CLI::App& app);
void declare_completions(CLI::App& app);
void declare_man(CLI::App& app);

}  // namespace lora::cli
