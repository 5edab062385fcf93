#pragma once
// Active adapters into what runs apply: one stack of factors a site.
#include "adapters/adapter.h"

namespace lora {

// An adapter that applies, and how strongly.
struct ActiveAdapter {
  const Adapter* adapter;
  double weight;
};

// nullptr where nothing applies anywhere. An adapter on another device than the model is the run's problem.
std::shared_ptr<const Run> stack(const Parts& parts, const std::vector<ActiveAdapter>& active);

}  // namespace lora
