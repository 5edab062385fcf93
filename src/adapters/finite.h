#pragma once
#include "lora/tensor.h"

namespace lora {

// Whether a tensor holds neither NaN nor infinity. At the speed of memory: halves and floats are looked at as bits.
bool all_finite(const Tensor& t);

// What makes a tensor one without numbers to take: "undefined", "on the device meta", "sparse"; nullptr for nothing.
const char* lacks_numbers(const Tensor& t);

}  // namespace lora
