#include "loaders/call_adapters.h"

#include <ATen/ATen.h>

#include <cmath>

#include "core/check.h"
#include "loaders/scales.h"

namespace lora {

CallAdapters::CallAdapters(const Parts& parts, const std::string& component, const CallAdapterOptions& options)
    : options_(options), pinned_(RunScope::pinned(parts)), stack_(parts) {
  if (!pinned_) return;
  const auto& state = AdapterState::of(*pinned_);
  for (size_t i = 0; i < options.per_image.size(); ++i) {
    std::vector<bool> only(options.per_image.size());
    only[i] = true;
    for (const auto& adapter : options.per_image[i]) add(adapter, component, parts, only);
  }
  if (!options.per_image.empty()) return;
  if (options.adapters)
    for (const auto& adapter : *options.adapters) add(adapter, component, parts, {});
  else
    entries_ = state.applying;
  schedules_.resize(entries_.size());
}

void CallAdapters::add(const CallAdapter& adapter, const std::string& component, const Parts& parts,
                       const std::vector<bool>& images) {
  const auto& state = AdapterState::of(*pinned_);
  auto weights = resolve(adapter.weight, component, parts);
  auto* loaded = find(state.loaded, adapter.name);
  if (!loaded || state.is_fused(*loaded->adapter)) return;
  // An adapter that several images take equally is stacked once.
  if (!images.empty() && adapter.schedule.constant() && !adapter.mask.defined())
    for (size_t i = 0; i < entries_.size(); ++i)
      if (entries_[i].adapter == loaded->adapter && entries_[i].weights == weights && schedules_[i].constant() &&
          !entries_[i].mask.defined()) {
        for (size_t b = 0; b < images.size(); ++b) entries_[i].images[b] = entries_[i].images[b] || images[b];
        return;
      }
  StackEntry entry{.adapter = loaded->adapter, .weights = std::move(weights), .images = images};
  if (adapter.mask.defined()) {
    check(adapter.mask.dim() == 2, ErrorKind::usage, "the mask of \"{}\" has shape {}; [height, width] is wanted",
          adapter.name, c10::str(adapter.mask.sizes()));
    auto mask = adapter.mask.to(at::kCPU, at::kFloat);
    if (options_.height == 0)
      entry.weights = entry.weights * mask.mean().item<double>();
    else
      entry.mask = at::adaptive_avg_pool2d(mask.unsqueeze(0).unsqueeze(0), {options_.height, options_.width})[0][0];
  }
  entries_.push_back(std::move(entry));
  schedules_.resize(entries_.size());
  schedules_.back() = adapter.schedule;
}

std::shared_ptr<const Run> CallAdapters::at(int step, int steps) {
  if (!pinned_) return nullptr;
  if (!options_.adapters && options_.per_image.empty() && options_.scale == 1) return pinned_;
  std::vector<double> factors;
  for (const auto& schedule : schedules_) {
    factors.push_back(options_.scale * schedule(step, steps));
    check(std::isfinite(factors.back()), ErrorKind::usage, "an adapter's schedule gives {} at step {} of {}",
          factors.back(), step, steps);
  }
  if (run_ && factors == factors_) return run_;
  auto entries = entries_;
  for (size_t i = 0; i < entries.size(); ++i) entries[i].weights = entries[i].weights * factors[i];
  auto run = stack_.run(entries, AdapterState::of(*pinned_), options_.tokens, options_.text_width);
  run->state = pinned_->state;
  factors_ = std::move(factors);
  return run_ = run;
}

}  // namespace lora
