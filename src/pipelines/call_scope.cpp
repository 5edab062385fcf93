#include "pipelines/call_scope.h"

#include <iterator>

#include "core/check.h"
#include "loaders/registry_of.h"

namespace lora {

CallScope::CallScope(const AdapterRegistry& registry, const CallOptions& options, int64_t images, double scale,
                     LatentImage image)
    : registry_(registry),
      pin_(registry),
      options_{.adapters = options.adapters, .per_image = options.adapters_per_image, .scale = scale},
      image_(std::move(image)) {
  check(options_.per_image.empty() || int64_t(options_.per_image.size()) == images, ErrorKind::usage,
        "adapters_per_image has {} lists for {} images. Give one list for each image", options_.per_image.size(),
        images);
  const auto& snapshot = AdapterRegistry::of(pin_);
  auto lists = options_.per_image;
  if (options_.adapters) lists.push_back(*options_.adapters);
  for (const auto& list : lists)
    for (const auto& adapter : list) check_known(snapshot.state, registry, {adapter.name});
  for (size_t c = 0; c < registry.components().size(); ++c)
    adapters_.emplace_back(registry, snapshot, c, options_, image_);
}

WeightsHold CallScope::hold(const std::string& component) const {
  return WeightsHold(*registry_.components()[registry_.index_of(component)].parts);
}

std::list<WeightsHold> CallScope::hold_text_encoders() const {
  std::list<WeightsHold> all;
  for (const auto& [name, parts] : registry_.components())
    if (name.starts_with("text_encoder")) all.emplace_back(*parts);
  return all;
}

RunScope CallScope::on(const std::string& component, int step, int steps) {
  const auto c = registry_.index_of(component);
  return RunScope(*registry_.components()[c].parts, std::next(adapters_.begin(), ptrdiff_t(c))->at(step, steps));
}

}  // namespace lora
