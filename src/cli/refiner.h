#pragma once
// The end of an SDXL run, drawn by another model.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "drawings.h"
#include "lora/pipelines.h"
#include "model_arguments.h"

namespace lora::cli {

// Draws the run of a base model to the end.
class Refiner {
 public:
  // Opens the refiner at `path`. `start` is the fraction of the run at which it takes over. Throws Error{usage} unless
  // `start` is inside the run, and the base model and the refiner are SDXL models.
  Refiner(const DiffusionPipeline& base, const std::string& path, double start, const PipelineOptions& options);

  // Loads those of the base model's LoRAs that fit the refiner. With `fuse`, fuses them. Prints a note for each of the
  // others.
  void load_loras(const std::vector<LoraArgument>& loras, PartialLora partial,
                  const std::optional<FuseLoraOptions>& fuse);

  // Loads those of the base model's embeddings that fit the refiner. Prints a note for each of the others.
  void load_embeddings(const std::vector<EmbeddingArgument>& embeddings);

  // The base model draws up to the start, the refiner draws the rest. `whole` is the call of the base model alone, for
  // all pictures of the prompt.
  std::vector<Image> draw(const std::string& prompt, const CallOptions& whole, PictureRange range) const;
  DiffusionPipeline& pipeline() { return *opened_; }

 private:
  std::unique_ptr<DiffusionPipeline> opened_;
  const StableDiffusionXLPipeline *base_ = nullptr, *refiner_ = nullptr;
  double start_;
  std::vector<LoraArgument> loras_;  // those that fit
  std::vector<LoadReport> reports_;  // of each of them
};

}  // namespace lora::cli
