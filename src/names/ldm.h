#pragma once
// Tensor names of the code that Stable Diffusion was first published with ("LDM", for 1.x, 2.x and XL) and the
// diffusers names of the same layers.
#include <cstdint>
#include <string>
#include <string_view>

namespace lora {

// Where a tensor goes: "" for a name that is not part of the network. A tensor that holds several of ours, one after
// the other along its first dimension, names them by `{}`: "….to_{}.weight" stands for to_q, to_k and to_v.

// Below `model.diffusion_model.`; layers_per_block as in the diffusers config.
std::string unet_name_from_ldm(std::string_view name, int64_t layers_per_block);
// Below `first_stage_model.`; levels is the number of block_out_channels. The decoder counts its blocks from the other
// end.
std::string vae_name_from_ldm(std::string_view name, int64_t levels);
// A text encoder under transformers' own names, in old files without their `text_model.` level.
std::string clip_name_from_ldm(std::string_view name);
// A text encoder as OpenCLIP has it.
std::string clip_name_from_open_clip(std::string_view name);
// Below `model.diffusion_model.` of Stable Diffusion 3.
std::string sd3_name_from_original(std::string_view name);

// The reverse, for names of layers ("….attn.to_q."): theirs, and which of several of ours that theirs holds, -1 for one
// alone. "" for a layer that their network does not have.
struct OriginalName {
  std::string name;
  int part = -1;
};
// first_attention: the first level of up_blocks that has attentions, which is where upsamplers have a place of their
// own behind them.
OriginalName unet_name_to_ldm(std::string_view name, int64_t layers_per_block, int64_t first_attention);
OriginalName sd3_name_to_original(std::string_view name);

inline constexpr std::string_view kFusedMark = "{}";
inline constexpr std::string_view kFusedNames[] = {"q", "k", "v"};

}  // namespace lora
