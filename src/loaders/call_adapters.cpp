#include "loaders/call_adapters.h"

#include <ATen/ATen.h>

#include <cmath>

#include "adapters/finite.h"
#include "core/check.h"
#include "core/edge.h"
#include "loaders/scales.h"

namespace lora {

namespace {

Tensor checked_mask(const CallAdapter& adapter) {
  const auto& mask = adapter.mask;
  check(mask.layout() == at::kStrided && !mask.is_meta(), ErrorKind::usage,
        "the mask of \"{}\" is sparse or has no memory; a dense tensor is wanted", adapter.name);
  check(mask.dim() == 2 && mask.numel() > 0, ErrorKind::usage,
        "the mask of \"{}\" has shape {}; [height, width] is wanted, both at least 1", adapter.name,
        c10::str(mask.sizes()));
  check(!mask.is_complex(), ErrorKind::usage, "the mask of \"{}\" has complex numbers; numbers from 0 to 1 are wanted",
        adapter.name);
  auto floats = mask.detach().to(at::kCPU, at::kFloat).contiguous();
  check(all_finite(floats), ErrorKind::usage,
        "the mask of \"{}\" holds NaN or infinity; numbers from 0 to 1 are wanted", adapter.name);
  return floats;
}

}  // namespace

CallAdapters::CallAdapters(const AdapterRegistry& registry, const AdapterSnapshot& snapshot, size_t component,
                           const CallAdapterOptions& options, const LatentImage& image)
    : registry_(registry), snapshot_(snapshot), component_(component), options_(options), image_(image) {
  adapters_ = snapshot.state.beside_weights(component);
  schedules_.resize(adapters_.size());
  beside_weights_ = adapters_.size();
  for (size_t i = 0; i < options.per_image.size(); ++i) {
    std::vector<bool> only(options.per_image.size());
    only[i] = true;
    for (const auto& adapter : options.per_image[i]) add(adapter, only);
  }
  if (!options.per_image.empty()) return;
  if (options.adapters) {
    for (const auto& adapter : *options.adapters) add(adapter, {});
    return;
  }
  adapters_ = snapshot.state.acting(component);
  schedules_.resize(adapters_.size());
}

void CallAdapters::add(const CallAdapter& adapter, const std::vector<bool>& images) {
  const auto& component = registry_.components()[component_];
  const auto mask = adapter.mask.defined() ? checked_mask(adapter) : Tensor();
  auto weights = resolve(adapter.weight, component.name, *component.parts, adapter.name);
  auto* loaded = snapshot_.state.find(adapter.name);
  if (!loaded || !loaded->parts[component_].adapter || snapshot_.state.is_fused(*loaded, component_)) return;
  const auto& part = loaded->parts[component_].adapter;
  // An adapter that several images take equally is stacked once.
  if (!images.empty() && adapter.schedule.constant() && !mask.defined())
    for (size_t i = beside_weights_; i < adapters_.size(); ++i)
      if (auto& same = adapters_[i];
          same.adapter == part && same.weights == weights && schedules_[i].constant() && !same.mask.defined()) {
        for (size_t b = 0; b < images.size(); ++b) same.images[b] = same.images[b] || images[b];
        return;
      }
  ActingAdapter acting{.name = adapter.name, .adapter = part, .weights = weights, .images = images, .mask = {}};
  if (mask.defined() && component.name != image_.denoiser)
    acting.weights = weights * mask.mean().item<double>();
  else if (mask.defined())
    acting.mask = at::adaptive_avg_pool2d(mask.unsqueeze(0).unsqueeze(0), {image_.height, image_.width})[0][0];
  adapters_.push_back(std::move(acting));
  schedules_.push_back(adapter.schedule);
}

std::shared_ptr<const Run> CallAdapters::at(int step, int steps) {
  if (options_.changes_nothing()) return snapshot_.runs[component_];
  std::vector<double> factors;
  for (size_t i = 0; i < schedules_.size(); ++i) {
    const double factor = callers([&] { return schedules_[i](step, steps); });
    check(std::isfinite(float(factor)), ErrorKind::usage, "an adapter's schedule gives {} at step {} of {}", factor,
          step, steps);
    factors.push_back(i < beside_weights_ ? 1 : options_.scale * factor);
  }
  if (run_ && factors == factors_) return run_;
  auto adapters = adapters_;
  for (size_t i = 0; i < adapters.size(); ++i) adapters[i].weights = adapters[i].weights * factors[i];
  run_ = build_run(*registry_.components()[component_].parts, adapters, registry_.weights(snapshot_.state, component_),
                   snapshot_.runs[component_]->added, run_ ? run_.get() : snapshot_.runs[component_].get());
  factors_ = std::move(factors);
  return run_;
}

}  // namespace lora
