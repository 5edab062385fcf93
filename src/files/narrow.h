#pragma once
// Numbers in another dtype, and what that dtype cannot hold of them.
#include <map>
#include <string>
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// What `dtype` cannot hold of one layer.
struct DtypeLoss {
  Dtype dtype = at::kFloat;
  int64_t numbers = 0;    // that the layer has
  int64_t zeros = 0;      // that were too small and became zero
  int64_t overflows = 0;  // that were too large
  bool dead = false;      // a tensor without which the layer does nothing became zero as a whole
  bool rescaled = false;  // factors were multiplied by powers of two, and their product stayed the same
  // The largest error of a tensor, relative to the tensor (Frobenius norms): of all tensors, and of those of `zeros`.
  double error = 0, error_of_zeros = 0;
};

// The layer with its numbers in `dtype`. Tensors of whole numbers stay. If the factors of a kind lose more in `dtype`
// than rounding costs, they are first brought to one size: each is multiplied by a power of two, so that the product
// stays the same. Other tensors cannot be rescaled.
LoraLayer narrowed(LoraLayer layer, Dtype dtype, DtypeLoss& loss);

// The losses of all layers, by name. Adds a note for each kind of loss to `notes`. Throws Error{unsupported} with the
// layers that the dtype cannot hold: numbers would become infinite, or nothing of the layer would be left.
void tell_losses(const std::map<std::string, DtypeLoss>& losses, const std::string& source,
                 std::vector<std::string>& notes);

}  // namespace lora
