#pragma once
// Dtype names as torch, as safetensors and as torch's pickles spell them, from one table.
#include <optional>
#include <string>
#include <string_view>

#include "lora/tensor.h"

namespace lora {

// "F32", "BF16", "F8_E4M3", … ; nullopt for a name that the format does not have, or that ATen has no dtype for.
std::optional<Dtype> dtype_from_safetensors(std::string_view name);
// nullopt for a dtype that the format cannot hold.
std::optional<std::string> dtype_to_safetensors(Dtype dtype);
// The reference writer's sort key: tensors are laid out from the highest rank to the lowest.
int safetensors_rank(Dtype dtype);

// "float32", "bfloat16", … ; nullopt for any other name.
std::optional<Dtype> dtype_from_torch(std::string_view name);

// The storage class in a torch pickle: "FloatStorage", "HalfStorage", … ; nullopt for any other name.
std::optional<Dtype> dtype_from_storage(std::string_view name);
// nullopt for a dtype without a storage class.
std::optional<std::string> dtype_to_storage(Dtype dtype);

}  // namespace lora
