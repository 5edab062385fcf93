#pragma once
// Transformers over the positions of a feature map.
#include "nn/attention.h"
#include "nn/layers.h"

namespace lora {

struct TransformerSettings {
  int64_t heads = 8;
  int64_t context = 1280;             // channels of the input of cross-attention
  int64_t groups = 32;                // of the norm before the first layer
  bool linear_projection = false;     // true: the projections in and out are linear layers; false: 1 × 1 convolutions
  bool only_cross_attention = false;  // the first attention attends to the context instead of to its own input
};

struct BasicTransformerBlock {
  Scope s;
  int64_t dim;
  TransformerSettings c;

  LayerNorm norm1{s / "norm1", dim};
  Attention attn1{s / "attn1", dim, c.only_cross_attention ? c.context : dim, c.heads};
  LayerNorm norm2{s / "norm2", dim};
  Attention attn2{s / "attn2", dim, c.context, c.heads};
  LayerNorm norm3{s / "norm3", dim};
  GegluFeedForward ff{s / "ff", dim};

  // x [N, positions, dim], context [N, tokens, c.context]; mask as for Attention, for the context in attn2.
  Tensor operator()(const Placed& x, const Tensor& context, const Tensor& mask) const;
};

struct Transformer2DModel {
  Scope s;
  int64_t channels, depth;
  TransformerSettings c;

  GroupNorm norm{s / "norm", channels, c.groups, 1e-6};
  std::optional<Conv2d> conv_in = when<Conv2d>(!c.linear_projection, s / "proj_in", channels, channels, 1);
  std::optional<Linear> linear_in = when<Linear>(c.linear_projection, s / "proj_in", channels, channels);
  std::vector<BasicTransformerBlock> transformer_blocks =
      repeat<BasicTransformerBlock>(s / "transformer_blocks", depth, channels, c);
  std::optional<Conv2d> conv_out = when<Conv2d>(!c.linear_projection, s / "proj_out", channels, channels, 1);
  std::optional<Linear> linear_out = when<Linear>(c.linear_projection, s / "proj_out", channels, channels);

  // x [N, channels, H, W] → the same shape.
  Tensor operator()(const Tensor& x, const Tensor& context, const Tensor& mask) const;
};

}  // namespace lora
