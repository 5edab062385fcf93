#pragma once
// The adapters of one call of a pipeline, step by step, on one component. Nothing of the pipeline's state changes.
#include <optional>

#include "adapters/registry.h"
#include "lora/adapters.h"

namespace lora {

struct CallAdapterOptions {
  std::optional<std::vector<CallAdapter>> adapters;  // none: the active ones
  std::vector<std::vector<CallAdapter>> per_image;   // where it is not empty, `adapters` and the active ones do not act
  double scale = 1;                                  // multiplies every weight

  bool changes_nothing() const { return !adapters && per_image.empty() && scale == 1; }
};

// The latent image that a call's masks cover.
struct LatentImage {
  std::string denoiser;  // the component that sees it
  int64_t height = 0, width = 0;
};

// Lives inside a SnapshotScope of the registry, and knows that snapshot's adapters. Adapters without layers in the
// component are left out. The constructor throws Error{usage} for weights and masks that cannot be used.
class CallAdapters {
 public:
  CallAdapters(const AdapterRegistry& registry, const AdapterSnapshot& snapshot, size_t component,
               const CallAdapterOptions& options, const LatentImage& image);

  // What applies at a step. It is the same object while nothing changes.
  std::shared_ptr<const Run> at(int step, int steps);

 private:
  const AdapterRegistry& registry_;
  const AdapterSnapshot& snapshot_;
  const size_t component_;
  const CallAdapterOptions& options_;
  const LatentImage& image_;
  std::vector<ActingAdapter> adapters_;
  size_t beside_weights_ = 0;            // so many of them belong to the weights: nothing of the call changes them
  std::vector<LoraSchedule> schedules_;  // of each adapter
  std::vector<double> factors_;          // those of run_
  std::shared_ptr<const Run> run_;

  void add(const CallAdapter& adapter, const std::vector<bool>& images);
};

}  // namespace lora
