#pragma once
// What the conversion of a layer's tensors to the dtype of a model loses.
#include <optional>
#include <string>

#include "lora/lora_file.h"
#include "nn/delta.h"

namespace lora {

struct Narrowing {
  int64_t nonzero = 0;     // numbers before the conversion that are not 0
  int64_t flushed = 0;     // of them, those that become 0
  int64_t overflowed = 0;  // of them, those that become infinite
  float largest = 0;       // magnitude before the conversion

  // Fewer than one number of a thousand: the smallest numbers of trained factors are noise.
  bool is_negligible() const { return overflowed == 0 && flushed * 1000 <= nonzero; }
};
Narrowing narrowing(const Tensor& tensor, Dtype to);

// The layer with its two factors shifted by powers of two, in opposite directions, if float16 cannot hold them as they
// are. The product of the factors does not change. Nothing if no shift is necessary.
std::optional<LoraLayer> shifted_into_range(const LoraLayer& layer, Dtype dtype);

// What a delta has lost of the layer's tensors.
struct NarrowingLoss {
  std::string fatal;  // if not empty, why the layer cannot be used: numbers became infinite, or all numbers of a tensor
                      // became 0
  int64_t flushed = 0, nonzero = 0;
};
NarrowingLoss narrowing_loss(const LoraLayer& layer, const Delta& delta, Dtype dtype);

}  // namespace lora
