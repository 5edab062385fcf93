#pragma once
// How much of the change of adapters the weights keep after they are fused.
#include <cstdint>
#include <string>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// A weight W of a layer gets the change Δ of all adapters that are fused into it. The result is rounded to the dtype of
// the model. This loses a part of Δ: most of it if Δ is small beside W, and the dtype is bfloat16 or float16.
//
// ‖…‖ is the square root of the sum of squares, over all numbers of a weight. The sums are in float32 and float64. In
// a large weight, an eighth of the numbers stands for the rest.
struct FuseReport {
  struct Layer {
    std::string component, path;
    Dtype dtype;
    double change = 0;  // ‖Δ‖ / ‖W‖: how large the change is
    // ‖round(W + Δ) − (W + Δ)‖ / ‖Δ‖: 0 if the weight keeps the change, 1 if it keeps nothing of it. The change of a
    // weight in float32 is not rounded further: 0.
    double lost = 0;
    int64_t not_finite = 0;     // numbers of the result that are NaN or infinite
    bool stays_active = false;  // not fused, because it would lose more than FuseLoraOptions::max_loss
  };
  std::vector<Layer> layers;  // those whose weights change, and those that stay active; in the order of the models

  // The same over all layers that are fused.
  double change = 0, lost = 0;
  int64_t not_finite = 0;

  size_t fused() const;         // the number of layers
  size_t stays_active() const;  // the number of layers
  std::string text() const;     // a few lines for people: the whole, and the layers that lose most
  std::string json() const;     // all layers
};

}  // namespace lora
