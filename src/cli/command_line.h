#pragma once
// The whole command line.
#include <CLI/CLI.hpp>
#include <memory>

#include "config_file.h"

namespace lora::cli {

// Declares all verbs under `app`, and what they have in common. Returns the file that gives defaults to options. A verb
// runs while `app` parses the command line.
std::shared_ptr<const ConfigFile> declare_command_line(CLI::App& app);

}  // namespace lora::cli
