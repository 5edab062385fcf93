#pragma once
// Completions of the command line for shells.
#include <string>

#include "outline.h"

namespace lora::cli {

// Scripts for the shells. They know the verbs, the options, the values where they are few, and which values are files.
std::string bash_completions(const OutlineVerb& command);
std::string zsh_completions(const OutlineVerb& command);
std::string fish_completions(const OutlineVerb& command);

}  // namespace lora::cli
