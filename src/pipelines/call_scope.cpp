#include "pipelines/call_scope.h"

#include <algorithm>

#include "core/check.h"

namespace lora {

CallScope::CallScope(const std::vector<LoraBaseMixin::Component>& components, const CallOptions& options,
                     int64_t images, double scale) {
  check(options.adapters_per_image.empty() || int64_t(options.adapters_per_image.size()) == images, ErrorKind::usage,
        "adapters_per_image has {} lists for {} images", options.adapters_per_image.size(), images);
  for (const auto& c : components) {
    pinned_.emplace_back(c).options = {
        .adapters = options.adapters, .per_image = options.adapters_per_image, .scale = scale};
  }
}

// Scopes end in the reverse of the order in which they began.
CallScope::~CallScope() {
  while (!pinned_.empty()) pinned_.pop_back();
}

CallScope::Pinned& CallScope::of(const std::string& component) {
  return *std::find_if(pinned_.begin(), pinned_.end(), [&](auto& p) { return p.name == component; });
}

void CallScope::set_picture(const std::string& denoiser, int64_t height, int64_t width, int64_t tokens,
                            int64_t text_width) {
  auto& options = of(denoiser).options;
  options.height = height;
  options.width = width;
  options.tokens = tokens;
  options.text_width = text_width;
}

RunScope CallScope::on(const std::string& component, int step, int steps) {
  auto& pinned = of(component);
  if (!pinned.adapters) pinned.adapters = std::make_unique<CallAdapters>(*pinned.parts, component, pinned.options);
  return RunScope(*pinned.parts, pinned.adapters->at(step, steps));
}

}  // namespace lora
