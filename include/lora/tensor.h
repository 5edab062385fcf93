#pragma once
// The one door to ATen for every other public header.
#include <ATen/core/Tensor.h>

#include <string>

namespace lora {

using at::Tensor;
using Dtype = at::ScalarType;
using Device = at::Device;

// "float32", "bfloat16", "float8_e4m3fn", … : torch's own names.
std::string to_string(Dtype dtype);
// Throws Error{usage} where the name is none of float32, float16, bfloat16.
Dtype parse_dtype(const std::string& name);

}  // namespace lora
