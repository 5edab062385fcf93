#pragma once
// One call of a pipeline: one snapshot of all its models from beginning to end, and the call's own adapters.
#include <list>

#include "loaders/call_adapters.h"
#include "lora/pipeline.h"

namespace lora {

class CallScope {
 public:
  // `scale` multiplies every adapter's weight. `image` is what the adapters' masks cover. Throws Error{not_found} for
  // an adapter that is not loaded, Error{usage} where adapters_per_image does not have one list for each image, and for
  // an adapter's values that are out of range.
  CallScope(const AdapterRegistry& registry, const CallOptions& options, int64_t images, double scale,
            LatentImage image);
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

  // A run of one component with the adapters that apply at a step.
  RunScope on(const std::string& component, int step, int steps);
  // What a run brings into memory of these components' weights stays there until the last hold ends.
  WeightsHold hold(const std::string& component) const;
  std::list<WeightsHold> hold_text_encoders() const;
  uint64_t snapshot() const { return pin_.snapshot()->number; }

 private:
  const AdapterRegistry& registry_;
  SnapshotScope pin_;
  CallAdapterOptions options_;
  LatentImage image_;
  std::list<CallAdapters> adapters_;  // of each component
};

}  // namespace lora
