#pragma once
// Weights that leave memory between the runs of a model, so that another model has room (PipelineOptions::low_memory).
#include "nn/site.h"

namespace lora {

// Which weights leave:
// - Weights that are the mapping of a file: the pages that nobody wrote to. The system reads them again at the next
// use.
// - Weights that were converted from a mapped file: all of them, but for those with fused adapters. The next run
//   converts them again.
// All other weights stay: written pages, fused weights, and weights that are not from a mapped file.
//
// Makes the weights of a model leave whenever it does not run, from now on. They leave at once.
void let_weights_leave(const Parts& parts);
// Brings all weights back, and ends let_weights_leave(). For callers who get the tensors.
void keep_weights(const Parts& parts);

// While one exists, weights of the model that are in memory stay there. When the last one ends, those that may leave
// do. Threads: any number may hold the same model. Hold a pipeline's model inside a SnapshotScope only, so that nothing
// writes weights meanwhile.
class WeightsHold {
 public:
  explicit WeightsHold(const Parts& parts);
  ~WeightsHold();
  WeightsHold(const WeightsHold&) = delete;
  WeightsHold& operator=(const WeightsHold&) = delete;

  // Brings the weights that left back into memory.
  void bring_back() const;

 private:
  const Parts& parts_;
};

// The weight and bias of a site as they are now, in the dtype of the model. If they may leave, in new memory.
Tensor present_weight(const Site& site);
Tensor present_bias(const Site& site);  // undefined for a layer without a bias

// Brings the weight and bias of one site back for good, before they are written to. The caller sees to it that no other
// thread uses the site.
void keep_for_writing(Site& site);

}  // namespace lora
