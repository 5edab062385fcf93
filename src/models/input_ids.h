#pragma once
#include <string>

#include "lora/tensor.h"

namespace lora {

// The ids on the device, once they are what a text encoder can take: int64 [images, tokens], each below vocab_size.
// Throws Error{usage}.
Tensor checked_input_ids(const Tensor& ids, int64_t vocab_size, Device device);

}  // namespace lora
