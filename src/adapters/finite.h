#pragma once
#include "lora/lora_file.h"

namespace lora {

// Whether a tensor does not contain NaN or infinity. It checks the bits of halves and floats, at the speed of memory.
bool all_finite(const Tensor& t);
// The same of all tensors of a layer.
bool all_finite(const LayerTensors& tensors);
// The same of all tensors of a layer, and of its alpha and scale as far as they count.
bool all_finite(const LoraLayer& layer);

// The reason why the numbers of a tensor cannot be read: "undefined", "on the device meta" or "sparse". nullptr if they
// can be read.
const char* lacks_numbers(const Tensor& t);

}  // namespace lora
