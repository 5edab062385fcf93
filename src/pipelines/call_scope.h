#pragma once
// One call of a pipeline: one snapshot of all its models from beginning to end, with the call's own adapters.
#include <list>

#include "loaders/call_adapters.h"
#include "lora/pipeline.h"

namespace lora {

class CallScope {
 public:
  // `image`: what masks are over. `scale` multiplies every adapter's weight. Throws Error{not_found} for adapters that
  // are not loaded, Error{usage} where adapters_per_image has not a list an image, or what it says makes no sense.
  CallScope(const AdapterRegistry& registry, const CallOptions& options, int64_t images, double scale,
            LatentImage image);
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

  // A run of one component with what applies at a step.
  RunScope on(const std::string& component, int step, int steps);
  uint64_t snapshot() const { return pin_.snapshot()->number; }

 private:
  const AdapterRegistry& registry_;
  SnapshotScope pin_;
  CallAdapterOptions options_;
  LatentImage image_;
  std::list<CallAdapters> adapters_;  // by component
};

}  // namespace lora
