#pragma once
// Fusing on the command line.
#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lora/pipeline.h"
#include "lora_argument.h"

namespace lora::cli {

struct FuseArguments {
  std::string keep_active_above;

  // Declares --keep-active-above.
  void declare(CLI::App& command);
  // As FuseLoraOptions::max_loss. Throws Error{usage} for a text that is not a share.
  std::optional<double> max_loss() const;
};

// Fuses the LoRAs of a pipeline, and prints what the rounding loses to stderr, with what helps. Throws
// Error{unsupported} if a weight has NaN or infinity then.
FuseReport fuse(DiffusionPipeline& pipe, const FuseLoraOptions& options);

// What keeps a change that rounding loses: a larger dtype, or a stronger LoRA.
std::string remedy(const FuseReport& report);

// Throws Error{usage} where --fuse is given and no LoRA.
void check_has_loras(bool fuse, const std::vector<LoraArgument>& loras);

}  // namespace lora::cli
