#pragma once
// Dtype names as torch and as safetensors spell them, from one table.
#include <optional>
#include <string>
#include <string_view>

#include "lora/tensor.h"

namespace lora {

// "F32", "BF16", "F8_E4M3", … ; nullopt for a name that the format does not have.
std::optional<Dtype> dtype_from_safetensors(std::string_view name);
// Throws Error{unsupported} for a dtype that the format cannot hold.
std::string dtype_to_safetensors(Dtype dtype);

}  // namespace lora
