#pragma once
// The adapters of one call of a pipeline, step by step, on one component. Nothing of the pipeline's state changes.
#include <optional>

#include "adapters/stack.h"
#include "lora/adapters.h"

namespace lora {

struct CallAdapterOptions {
  std::optional<std::vector<CallAdapter>> adapters;  // none: the active ones
  std::vector<std::vector<CallAdapter>> per_image;   // in place of both, where not empty
  double scale = 1;                                  // on every weight
  int64_t height = 0, width = 0;                     // of the latent image; 0 for a model that sees no picture
  int64_t tokens = 0, text_width = 0;                // of text embeddings
};

class CallAdapters {
 public:
  // Inside a RunScope of the model: its adapters are those of that run. Throws Error{usage} for weights and masks that
  // make no sense; names that the component has not are passed over.
  CallAdapters(const Parts& parts, const std::string& component, const CallAdapterOptions& options);

  // What applies at a step; the same object while nothing changes.
  std::shared_ptr<const Run> at(int step, int steps);

 private:
  const CallAdapterOptions& options_;
  std::shared_ptr<const Run> pinned_, run_;
  std::vector<StackEntry> entries_;
  std::vector<LoraSchedule> schedules_;  // one an entry
  std::vector<double> factors_;          // those of run_
  Stack stack_;

  void add(const CallAdapter& adapter, const std::string& component, const Parts& parts,
           const std::vector<bool>& images);
};

}  // namespace lora
