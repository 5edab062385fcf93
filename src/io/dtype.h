#pragma once
// Names of dtypes in torch, in safetensors and in torch's pickles.
#include <optional>
#include <string>
#include <string_view>

#include "lora/tensor.h"

namespace lora {

// "F32", "BF16", "F8_E4M3", …; nullopt if the format does not have the name, or ATen does not have the dtype.
std::optional<Dtype> dtype_from_safetensors(std::string_view name);
// nullopt if the format cannot hold the dtype.
std::optional<std::string> dtype_to_safetensors(Dtype dtype);
// The reference writer's sort key: it writes tensors from the highest rank to the lowest. -1 if the format cannot hold
// the dtype.
int safetensors_rank(Dtype dtype);

// "float32", "bfloat16", …; nullopt for other names.
std::optional<Dtype> dtype_from_torch(std::string_view name);

// The storage class in a torch pickle: "FloatStorage", "HalfStorage", …; nullopt for other names.
std::optional<Dtype> dtype_from_storage(std::string_view name);
// nullopt for a dtype without a storage class.
std::optional<std::string> dtype_to_storage(Dtype dtype);

}  // namespace lora
