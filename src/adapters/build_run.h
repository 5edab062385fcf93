#pragma once
// Makes a Run of adapters: one stack of factors for each site.
#include <functional>

#include "adapters/state.h"
#include "nn/run.h"

namespace lora {

// The weights that a run uses at a site.
struct WeightsOfRun {
  std::function<Tensor(const Site&)> weight, bias;  // with fused adapters
  std::function<Tensor(const Site&)> base;  // without fused adapters; undefined if nothing is fused into the site
};

// Makes the run that applies these adapters. `before` is the run before it, or nullptr. Stacks of the same factors are
// shared with it. Two problems do not throw here, because they may be solved before the run starts. They become
// Run::problem: an adapter on another device than the model, and an adapter in training next to other adapters. Throws
// Error{unsupported} if an adapter is limited to some images or regions and its kind does not support that.
std::shared_ptr<const Run> build_run(const Parts& parts, const std::vector<ActingAdapter>& adapters,
                                     const WeightsOfRun& weights, std::shared_ptr<const AddedRows> added,
                                     const Run* before);

}  // namespace lora
