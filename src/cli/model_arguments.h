#pragma once
// A model and its LoRAs on the command line.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "embedding_argument.h"
#include "hub_arguments.h"
#include "lora/pipeline.h"
#include "lora_argument.h"
#include "threads.h"

namespace lora::cli {

struct ModelArguments {
  std::string model, dtype, device = "cpu", variant, vae, prediction_type;
  std::vector<std::string> loras, text_encoders, embeddings;
  HubArguments hub;
  bool allow_partial = false;
  Threads threads;

  // Declares MODEL, --lora, --allow-partial, --dtype, --device, --variant, --vae, --text-encoder, --revision,
  // --cache-dir and --threads.
  void declare(CLI::App& command);
  void declare_prediction_type(CLI::App& command);
  void declare_embeddings(CLI::App& command);
  PipelineOptions pipeline_options() const;
  std::vector<LoraArgument> lora_arguments() const;
  std::vector<EmbeddingArgument> embedding_arguments() const;
  PartialLora partial() const { return allow_partial ? PartialLora::allow : PartialLora::refuse; }
};

// Opens a model. Notes what its files have that the command should say.
std::unique_ptr<DiffusionPipeline> open_pipeline(const std::string& model, const PipelineOptions& options);

// Loads the LoRAs and makes them all active at their weights. Notes what the loads and the weights leave out. Their
// names are those of LoraPlace, with numbers where two are the same. Throws Error{usage} for a LoRA that is of a call,
// unless `for_a_call`.
std::vector<LoadReport> load_loras(DiffusionPipeline& pipe, const std::vector<LoraArgument>& loras, PartialLora partial,
                                   bool for_a_call = false);

// Makes loaded LoRAs the active ones, at their weights. Notes what the weights leave out. The reports are those of the
// LoRAs. Throws Error{usage} for a weight that does not fit the model.
void activate_loras(DiffusionPipeline& pipe, const std::vector<LoraArgument>& loras,
                    const std::vector<LoadReport>& reports);

// Where a LoRA is of a call, or the call has `only_these` of the loaded ones: sets the adapters of a call of `images`
// images in its options, named as in the reports. Throws Error{usage} for an image that the batch does not have.
void set_call_adapters(const DiffusionPipeline& pipe, const std::vector<LoraArgument>& loras,
                       const std::vector<LoadReport>& reports, int images, CallOptions& options,
                       bool only_these = false);

}  // namespace lora::cli
