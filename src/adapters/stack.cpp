#include "adapters/stack.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

namespace lora {

namespace {

struct Layer {
  const Delta* delta;
  double weight;
};

std::shared_ptr<const Applied> stacked(const Site& site, const std::vector<Layer>& layers) {
  auto applied = std::make_shared<Applied>();
  auto first = layers.front().delta->low_rank();
  if (layers.size() == 1) {
    applied->A = first->A;
    applied->B = first->B;
    applied->scale = layers.front().weight * first->scale;
    return applied;
  }
  std::vector<Tensor> A, B;
  std::vector<float> s;
  for (const auto& [delta, weight] : layers) {
    auto* factors = delta->low_rank();
    A.push_back(factors->A);
    B.push_back(factors->B);
    s.insert(s.end(), factors->rank(), float(weight * factors->scale));
  }
  applied->A = at::cat(A, 0);
  applied->B = at::cat(B, 1);
  applied->s = at::tensor(s).to(site.weight.device());
  return applied;
}

}  // namespace

std::shared_ptr<const Run> stack(const Parts& parts, const std::vector<ActiveAdapter>& active) {
  c10::NoGradGuard no_grad;
  auto run = std::make_shared<Run>();
  std::vector<std::vector<Layer>> layers(parts.sites.size());
  for (const auto& [adapter, weight] : active) {
    if (weight == 0) continue;
    for (const auto& [site, delta] : adapter->entries) {
      auto there = delta->low_rank()->A.device(), here = site->weight.device();
      if (there != here) {
        run->problem = fmt::format(
            "adapter \"{}\" is on {}, the model on {}; bring it back with set_lora_device before it is used",
            adapter->name, there.str(), here.str());
        return run;
      }
      layers[site->index].push_back({delta.get(), weight});
    }
  }
  bool any = false;
  run->at.resize(parts.sites.size());
  for (size_t i = 0; i < layers.size(); ++i)
    if (!layers[i].empty()) run->at[i] = stacked(*parts.sites[i], layers[i]), any = true;
  return any ? run : nullptr;
}

}  // namespace lora
