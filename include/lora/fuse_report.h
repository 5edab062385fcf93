#pragma once
// How much of the change of adapters the weights keep after they are fused.
#include <cstdint>
#include <string>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// A weight W of a layer gets the change Δ of all adapters that are fused into it. It becomes W' = round(W + Δ), in the
// dtype of the model. This loses a part of Δ: most of it if Δ is small beside W, and the dtype is bfloat16 or float16.
// float32 loses a change that is millions of times smaller than W.
//
// ‖…‖ is the square root of the sum of squares, over all numbers of a weight. In a large weight, an eighth of the
// numbers stands for the rest.
struct FuseReport {
  struct Layer {
    std::string component, path;
    Dtype dtype;
    double change = 0;  // ‖Δ‖ / ‖W‖: how large the change is; 0 if that is NaN or infinite
    // ‖(W' − W) − Δ‖ / ‖Δ‖: 0 if the weight keeps the change, 1 if it keeps nothing of it or has NaN or infinity.
    double lost = 0;
    int64_t not_finite = 0;     // numbers of the result that are NaN or infinite
    bool stays_active = false;  // not fused, because it would lose more than FuseLoraOptions::max_loss
    bool unchanged = false;     // fused, but no number of the weight and of the bias differs from before
  };
  std::vector<Layer> layers;  // those whose weights change, and those that stay active; in the order of the models

  // The same over all layers that are fused. `change` and `lost` leave out the layers with NaN or infinity.
  double change = 0, lost = 0;
  int64_t not_finite = 0;

  size_t fused() const;         // the number of layers
  size_t stays_active() const;  // the number of layers
  size_t unchanged() const;     // the number of layers
  std::string text() const;     // a few lines for people: the whole, and the layers that lose most
  std::string json() const;     // all layers
};

}  // namespace lora
