#pragma once
// Adapters into what runs apply: one stack of factors a site, and new numbers for it at other strengths.
#include <functional>

#include "adapters/state.h"
#include "nn/run.h"

namespace lora {

// The weights that a run will find at a site.
struct WeightsOfRun {
  std::function<Tensor(const Site&)> weight, bias;  // with what is fused
  std::function<Tensor(const Site&)> base;          // without; undefined where nothing is fused into the site
};

// What a run with these adapters applies. Stacks that the run before has of the same factors are shared with it
// (nullptr for none). Two things are the run's problem, for they may pass before it starts: an adapter on another
// device than the model, and one that is trained beside others. Throws Error{unsupported} for adapters of some images
// or regions alone whose kind cannot do that.
std::shared_ptr<const Run> build_run(const Parts& parts, const std::vector<ActingAdapter>& adapters,
                                     const WeightsOfRun& weights, std::shared_ptr<const AddedRows> added,
                                     const Run* before);

}  // namespace lora
