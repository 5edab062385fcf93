#pragma once
// A difference of a layer's bias, which may stand beside any kind.
#include <string_view>

namespace lora {

inline constexpr std::string_view kBiasDifference = "diff_b";

}  // namespace lora
