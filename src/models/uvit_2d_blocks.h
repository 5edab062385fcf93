#pragma once
// The blocks of a UVit2DModel. Feature maps have their channels last, [N, h, w, channels], because all layers except
// the convolutions need that.
#include "nn/attention.h"
#include "nn/elementwise.h"
#include "nn/layers.h"

namespace lora {

struct UVitSettings {
  int64_t hidden_size;  // of the transformer and of its conditioning
  int64_t channels;     // of the feature maps before and after the transformer
  double eps;
  int64_t block_num_heads, num_res_blocks;         // of the blocks before and after the transformer
  int64_t num_attention_heads, intermediate_size;  // of the transformer
};

// The inputs of all layers from the prompt and the micro conditions.
struct UVitConditioning {
  Tensor embed;              // [N, hidden_size], after the activation with which each layer begins
  Tensor context;            // [N, tokens, hidden_size]
  Tensor activated_context;  // silu(context)
};

// Token ids [N, h, w] → [N, h, w, out].
struct UVit2DConvEmbed {
  Scope s;
  int64_t vocab_size, in, out;
  double eps;

  Embedding embeddings{s / "embeddings", vocab_size, in};
  RMSNorm layer_norm{s / "layer_norm", in, eps};
  Conv2d conv{s / "conv", in, out, 1, 1, 0, kNoBias};

  Tensor operator()(const Tensor& ids) const;
};

// Scales each channel by its norm over the map, relative to the mean of all channels (Woo et al. 2023,
// arXiv:2301.00808).
struct GlobalResponseNorm {
  Scope s;
  int64_t channels;

  Tensor gamma = s.tensor("gamma", {1, 1, 1, channels}), beta = s.tensor("beta", {1, 1, 1, channels});

  Tensor operator()(const Tensor& x) const;
};

struct ConvNextBlock {
  Scope s;
  UVitSettings c;

  Conv2d depthwise{s / "depthwise", c.channels, c.channels, 3, 1, 1, kNoBias, c.channels};
  RMSNorm norm{s / "norm", c.channels, c.eps};
  Linear channelwise_linear_1{s / "channelwise_linear_1", c.channels, 4 * c.channels, kNoBias};
  GlobalResponseNorm channelwise_norm{s / "channelwise_norm", 4 * c.channels};
  Linear channelwise_linear_2{s / "channelwise_linear_2", 4 * c.channels, c.channels, kNoBias};
  Linear cond_embeds_mapper{s / "cond_embeds_mapper", c.hidden_size, 2 * c.channels, kNoBias};

  Tensor operator()(const Tensor& x, const UVitConditioning& given) const;
};

// Two cross-attentions, without self-attention and without a feed-forward.
struct SkipFFTransformerBlock {
  Scope s;
  UVitSettings c;

  std::optional<Linear> kv_mapper =
      when<Linear>(c.hidden_size != c.channels, s / "kv_mapper", c.hidden_size, c.channels, kNoBias);
  RMSNorm norm1{s / "norm1", c.channels};
  Attention attn1{s / "attn1", c.channels, c.channels, c.block_num_heads, kNoBias, kNoBias};
  RMSNorm norm2{s / "norm2", c.channels};
  Attention attn2{s / "attn2", c.channels, c.channels, c.block_num_heads, kNoBias, kNoBias};

  // x [N, positions, channels] → the same shape.
  Tensor operator()(const Placed& x, const UVitConditioning& given) const;
};

// Halves the height and width, which must be even.
struct UVitDownsample {
  Scope s;
  UVitSettings c;

  RMSNorm norm{s / "norm", c.channels, c.eps};
  Conv2d conv{s / "conv", c.channels, c.channels, 2, 2, 0, kNoBias};

  Tensor operator()(const Tensor& x) const;
};

// Doubles the height and width by a transposed convolution. Its weight is not a site, because no adapter format has
// such layers.
struct UVitUpsample {
  Scope s;
  UVitSettings c;

  RMSNorm norm{s / "norm", c.channels, c.eps};
  Tensor conv_weight = (s / "conv").tensor("weight", {c.channels, c.channels, 2, 2});

  Tensor operator()(const Tensor& x) const;
};

struct UVitBlock {
  Scope s;
  UVitSettings c;
  bool down, up;

  std::optional<UVitDownsample> downsample = when<UVitDownsample>(down, s / "downsample", c);
  std::vector<ConvNextBlock> res_blocks = repeat<ConvNextBlock>(s / "res_blocks", c.num_res_blocks, c);
  std::vector<SkipFFTransformerBlock> attention_blocks =
      repeat<SkipFFTransformerBlock>(s / "attention_blocks", c.num_res_blocks, c);
  std::optional<UVitUpsample> upsample = when<UVitUpsample>(up, s / "upsample", c);

  Tensor operator()(Tensor x, const UVitConditioning& given) const;
};

// Norms whose output the conditioning scales and shifts.
struct UVitAdaRMSNorm {
  Scope s;
  UVitSettings c;

  Linear linear{s / "linear", c.hidden_size, 2 * c.hidden_size, kNoBias};
  RMSNorm norm{s / "norm", c.hidden_size, c.eps};

  Tensor operator()(const Tensor& x, const UVitConditioning& given) const;
};

struct UVitAdaLayerNorm {
  Scope s;
  UVitSettings c;

  Linear linear{s / "linear", c.hidden_size, 2 * c.hidden_size, kNoBias};
  LayerNorm norm{s / "norm", c.hidden_size, c.eps, kNoBias};

  Tensor operator()(const Tensor& x, const UVitConditioning& given) const;
};

struct UVitTransformerLayer {
  Scope s;
  UVitSettings c;

  UVitAdaRMSNorm norm1{s / "norm1", c};
  Attention attn1{s / "attn1", c.hidden_size, c.hidden_size, c.num_attention_heads, kNoBias, kNoBias};
  UVitAdaRMSNorm norm2{s / "norm2", c};
  Attention attn2{s / "attn2", c.hidden_size, c.hidden_size, c.num_attention_heads, kNoBias, kNoBias};
  UVitAdaLayerNorm norm3{s / "norm3", c};
  GegluFeedForward ff{s / "ff", c.hidden_size, c.intermediate_size, kNoBias};

  // x [N, positions, hidden_size] → the same shape.
  Tensor operator()(const Placed& x, const UVitConditioning& given) const;
};

// [N, h, w, channels] → logits [N, codebook_size, h, w].
struct ConvMlmLayer {
  Scope s;
  int64_t channels, in_channels, codebook_size;
  double eps;

  Conv2d conv1{s / "conv1", channels, in_channels, 1, 1, 0, kNoBias};
  RMSNorm layer_norm{s / "layer_norm", in_channels, eps};
  Conv2d conv2{s / "conv2", in_channels, codebook_size, 1, 1, 0, kNoBias};

  Tensor operator()(const Tensor& x) const;
};

}  // namespace lora
