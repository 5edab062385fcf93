#pragma once
// A model and its LoRAs on the command line.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "lora/pipeline.h"
#include "lora_argument.h"
#include "threads.h"

namespace lora::cli {

struct ModelArguments {
  std::string model, dtype, device = "cpu", variant, prediction_type;
  std::vector<std::string> loras;
  Threads threads;

  // Declares MODEL, --lora, --dtype, --device, --variant and --threads.
  void declare(CLI::App& command);
  void declare_prediction_type(CLI::App& command);
  PipelineOptions pipeline_options() const;
  std::vector<LoraArgument> lora_arguments() const;
};

// Opens a model and prints what its files have to note to stderr.
std::unique_ptr<DiffusionPipeline> open_pipeline(const std::string& model, const PipelineOptions& options);

// Loads the LoRAs and makes them all active at their weights. Their names are those of LoraPlace, with numbers where
// two are the same. Throws Error{usage} for a LoRA that is of a call, unless `for_a_call`.
std::vector<LoadReport> load_loras(LoraBaseMixin& pipe, const std::vector<LoraArgument>& loras,
                                   bool for_a_call = false);

// Where a LoRA is of a call: sets the adapters of a call of `images` images in its options, named as in the reports.
// Throws Error{usage} for an image that the batch does not have.
void set_call_adapters(const std::vector<LoraArgument>& loras, const std::vector<LoadReport>& reports, int images,
                       CallOptions& options);

}  // namespace lora::cli
