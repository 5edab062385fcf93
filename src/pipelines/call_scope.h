#pragma once
// The models of one call of a pipeline: pinned as they are when it begins, with the call's own adapters.
#include <list>

#include "loaders/call_adapters.h"
#include "lora/pipeline.h"
#include "nn/site.h"

namespace lora {

class CallScope {
 public:
  // `scale` multiplies every adapter's weight. Throws Error{usage} where adapters_per_image has not a list an image.
  CallScope(const std::vector<LoraBaseMixin::Component>& components, const CallOptions& options, int64_t images,
            double scale);
  ~CallScope();
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

  // What the denoiser sees, for masks: latents of that size and that many text tokens, of that width where it tells
  // them from a picture's places.
  void set_picture(const std::string& denoiser, int64_t height, int64_t width, int64_t tokens, int64_t text_width);

  // A run of one component with what applies at a step.
  RunScope on(const std::string& component, int step, int steps);

 private:
  struct Pinned {
    explicit Pinned(const LoraBaseMixin::Component& c) : name(c.name), parts(c.model->parts().get()), scope(*parts) {}
    std::string name;
    const Parts* parts;
    RunScope scope;
    CallAdapterOptions options;
    std::unique_ptr<CallAdapters> adapters;  // made when they are first asked for
  };
  std::list<Pinned> pinned_;

  Pinned& of(const std::string& component);
};

}  // namespace lora
