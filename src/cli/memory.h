#pragma once
// Whether pictures fit into memory, before they are drawn.
#include <nlohmann/json.hpp>
#include <vector>

#include "lora/pipeline.h"

namespace lora::cli {

// The pipelines that draw one picture: MODEL, and perhaps a refiner after it.
using Pipelines = std::vector<const DiffusionPipeline*>;

// How many pictures a call like this one can have, from 1 to `most`: as many as the free memory has room for. On a GPU:
// `most`.
int pictures_that_fit(const Pipelines& pipes, CallOptions call, int most);

// Throws Error{usage} where a call on the CPU needs more memory than is free.
void check_memory(const Pipelines& pipes, const CallOptions& call);

// The memory that calls need: that of the call that needs most.
class MemoryReport {
 public:
  void add(const Pipelines& pipes, const CallOptions& call);
  // One line.
  std::string text() const;
  nlohmann::ordered_json json() const;

 private:
  double free_ = free_memory(), weights_ = 0, encoding_ = 0, denoising_ = 0, decoding_ = 0;
};

}  // namespace lora::cli
