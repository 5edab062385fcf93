#pragma once
// The sizes of Flux' layers, which HunyuanVideo, HunyuanImage and Chroma have too, in widths of the model.
#include "names/base_model.h"

namespace lora {

inline constexpr LayerSize kFluxSizes[] = {
    {"^double_blocks_#_*_attn_qkv$", 3, 1},
    {"^double_blocks_#_*_attn_proj$", 1, 1},
    {"^double_blocks_#_*_mlp_0$", 4, 1},
    {"^double_blocks_#_*_mlp_2$", 1, 4},
    {"^double_blocks_#_*_mlp_fc1$", 4, 1},
    {"^double_blocks_#_*_mlp_fc2$", 1, 4},
    {"^double_blocks_#_*_mod_", 6, 1},
    {"^single_blocks_#_linear1$", 7, 1},
    {"^single_blocks_#_linear2$", 1, 5},
    {"^single_blocks_#_modulation_", 3, 1},
    {"^transformer_blocks_#_attn_", 1, 1},
    {"^transformer_blocks_#_ff_net_0_proj$", 4, 1},
    {"^transformer_blocks_#_ff_net_2$", 1, 4},
    {"^transformer_blocks_#_ff_context_net_0_proj$", 4, 1},
    {"^transformer_blocks_#_ff_context_net_2$", 1, 4},
    {"^transformer_blocks_#_norm1_", 6, 1},
    {"^single_transformer_blocks_#_attn_", 1, 1},
    {"^single_transformer_blocks_#_proj_mlp$", 4, 1},
    {"^single_transformer_blocks_#_proj_out$", 1, 5},
    {"^single_transformer_blocks_#_norm_linear$", 3, 1},
    {"^img_in$", 1, 0},
    {"^txt_in$", 1, 0, 4096},
    {"^time_in_in_layer$", 1, 0},
    {"^time_in_out_layer$", 1, 1},
    {"^vector_in_in_layer$", 1, 0},
    {"^vector_in_out_layer$", 1, 1},
    {"^guidance_in_in_layer$", 1, 0},
    {"^guidance_in_out_layer$", 1, 1},
    {"token_refiner_refiner_blocks_#_attn_", 1, 1},
    {"token_refiner_refiner_blocks_#_ff_net_0_proj$", 4, 1},
    {"token_refiner_refiner_blocks_#_ff_net_2$", 1, 4},
    {"token_refiner_refiner_blocks_#_norm_out_linear$", 2, 1},
};

}  // namespace lora
