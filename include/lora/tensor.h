#pragma once
// Every other public header includes ATen through this one.
#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

namespace lora {

using at::Tensor;
using Dtype = at::ScalarType;
using Device = at::Device;

// "float32", "bfloat16", "float8_e4m3fn", … : torch's own names.
std::string to_string(Dtype dtype);
// The dtype of a model: "float32", "float16" or "bfloat16". Throws Error{usage} for other names. For "fp16" and the
// like, the message says which name to write.
Dtype parse_dtype(std::string_view name);

}  // namespace lora
