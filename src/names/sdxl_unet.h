#pragma once
// What tells the UNet of SDXL, which Kolors has too.
#include <cstdint>
#include <string_view>

namespace lora {

inline constexpr int64_t kSdxlCrossAttention = 2048;

// Names of levels that it does not have, or that have no attention there.
inline constexpr std::string_view kSdxlNever[] = {
    "^down_blocks_0_attentions", "^down_blocks_3_",    "^up_blocks_2_attentions", "^up_blocks_3_",
    "^input_blocks_1_1_",        "^input_blocks_2_1_", "^input_blocks_9_",        "^input_blocks_10_",
    "^input_blocks_11_",         "^output_blocks_9_",  "^output_blocks_10_",      "^output_blocks_11_",
};

}  // namespace lora
