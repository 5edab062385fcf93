#pragma once
// What a layer's adapter says of its bias, beside any kind or alone.
#include <string_view>

namespace lora {

inline constexpr std::string_view kBiasDifference = "diff_b";
// The trained bias itself, in the place of the model's: PEFT's `bias="lora_only"` and `bias="all"`.
inline constexpr std::string_view kWholeBias = "base_layer.bias";

}  // namespace lora
