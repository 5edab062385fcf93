#pragma once
// What a narrower dtype cannot hold of a layer's numbers, and factors rescaled so that it can.
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// Whether the range of `to` is smaller than that of `from`.
bool narrows(Dtype from, Dtype to);

// What becomes of the numbers of a tensor in another dtype. Numbers that are 0 before do not count.
struct Narrowing {
  int64_t nonzero = 0;
  int64_t flushed = 0;     // become 0
  int64_t imprecise = 0;   // lose digits, because they are so small. Those that become 0 are among them.
  int64_t overflowed = 0;  // become infinite or the largest number of the dtype

  // At most one number of a thousand: the smallest numbers of trained factors are noise.
  bool flushes_few() const { return flushed * 1000 <= nonzero; }
  // Then the error of the tensor is at most twice that of rounding.
  bool fits() const { return overflowed == 0 && flushes_few() && imprecise * 4 <= nonzero * 3; }
};
// All 0 if `to` does not narrow the tensor's dtype. Then no number is read.
Narrowing narrowing(const Tensor& tensor, Dtype to);

// What a dtype cannot hold of one layer.
struct DtypeLoss {
  Dtype dtype = at::kFloat;
  int64_t overflowed = 0;                  // numbers that are too large
  std::optional<std::string> overflowing;  // the first tensor with such numbers
  std::optional<std::string> dead;         // a tensor that becomes 0, and without which the layer does nothing
  int64_t flushed = 0, nonzero = 0;        // of the tensors that do not flush few
  double error_of_flushed = 0;             // the largest error of these tensors
  bool rescaled = false;                   // factors were multiplied by powers of two, and their product is the same
  // The most that any tensor loses, relative to the tensor (Frobenius norms). For tensors that fit, it is the limit of
  // what rounding costs.
  double error = 0;
};

struct Fitted {
  LayerTensors tensors;
  DtypeLoss loss;
};
// A layer's tensors, ready to be cast to `dtype`. If it cannot hold the factors of the layer's kind, they are brought
// to one size: each is multiplied by a power of two, and their product stays the same. They are then in float64. Other
// tensors are as before. `is_cast` says which suffixes will be cast. Tensors of whole numbers never are.
Fitted fitted(LayerTensors tensors, Dtype dtype, const std::function<bool(std::string_view suffix)>& is_cast);

// What can be done about a loss, told the dtypes that lose nothing: "bfloat16 or float32".
using Advice = std::string (*)(const std::string& wider);
// The notes about the losses of layers, by name. Throws Error{unsupported} with the layers that a dtype cannot hold.
std::vector<std::string> tell_losses(const std::map<std::string, DtypeLoss>& losses, const std::string& source,
                                     Advice advice);

}  // namespace lora
