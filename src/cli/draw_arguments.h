#pragma once
// What `generate` and `grid` draw, on the command line.
#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "lora/pipeline.h"
#include "model_arguments.h"
#include "picture_arguments.h"
#include "prompt_arguments.h"

namespace lora::cli {

struct DrawArguments {
  ModelArguments model;
  PromptArguments prompts;
  PictureArguments pictures;
  std::string size, scheduler, lora_dir, seed = "-1";
  std::optional<int> steps, clip_skip;
  std::optional<double> cfg, eta, guidance_rescale;
  std::string vae_tiling = "auto";
  bool low_memory = false, yes = false;

  // Declares the options of the members, and --steps, --cfg, --seed, --size, --scheduler, --clip-skip, --lora-dir,
  // --vae-tiling, --low-memory and --yes.
  void declare(CLI::App& command);

  PipelineOptions pipeline_options() const;
  // Sets what --vae-tiling says. Throws Error{usage} for a pipeline without tiles.
  void set_tiling(DiffusionPipeline& pipe) const;
  // What the calls for `count` pictures of each prompt have in common. Reads the files of pictures. Throws Error{usage}
  // for values that are not understood.
  CallOptions call_options(int count) const;
};

}  // namespace lora::cli
