#pragma once
// Runs that tests make by hand.
#include "models/parts_of.h"
#include "nn/run.h"

namespace lora {

// One in which a weight stands in for one site's own.
inline std::shared_ptr<const Run> run_with_weight(const Model& model, const Site& site, const Tensor& weight) {
  auto run = std::make_shared<Run>();
  run->at.resize(parts_of(model).sites.size());
  run->at[site.index] = std::make_shared<const Applied>(ForAll{.weight = weight});
  return run;
}

}  // namespace lora
