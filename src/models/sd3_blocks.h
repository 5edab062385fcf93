#pragma once
// The blocks of MM-DiT (arXiv:2403.03206). In this transformer, image tokens and text tokens have separate weights and
// attend to each other. Tokens are [N, tokens, dim].
#include "nn/layers.h"

namespace lora {

struct JointBlockSettings {
  int64_t dim, heads;
  bool qk_norm;           // queries and keys are normalised, separately for each head
  bool dual_attention;    // the image has a second attention, without the text
  bool context_pre_only;  // the block does not return the text: the last block
};

// ---- Modulation -----------------------------------------------------------------------------------------------------

// The effect of the timestep and the pooled prompt on a layer. Each tensor is [N, 1, dim].
struct Modulation {
  Tensor shift, scale, gate;
};

// The modulations of `layers` layers.
struct AdaLayerNormZero {
  Scope s;
  int64_t dim, layers;

  Linear linear{s / "linear", dim, 3 * layers* dim};

  // emb [N, dim], after its activation.
  std::vector<Modulation> operator()(const Tensor& emb) const;
};

// A norm with a modulation without a gate.
struct AdaLayerNormContinuous {
  Scope s;
  int64_t dim;

  Linear linear{s / "linear", dim, 2 * dim};

  Tensor operator()(const Tensor& x, const Tensor& emb) const;
};

// ---- Attention ------------------------------------------------------------------------------------------------------

// Each [N, tokens, heads, dim / heads].
struct QueriesKeysValues {
  Tensor q, k, v;
};

// The names of the layers for one side of an attention.
struct SideNames {
  const char *q, *k, *v, *norm_q, *norm_k;
};
inline constexpr SideNames kImageSide{"to_q", "to_k", "to_v", "norm_q", "norm_k"};
inline constexpr SideNames kTextSide{"add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k"};

struct AttentionSide {
  Scope s;
  JointBlockSettings c;
  SideNames names;

  std::optional<RMSNorm> norm_q = when<RMSNorm>(c.qk_norm, s / names.norm_q, c.dim / c.heads, 1e-6);
  std::optional<RMSNorm> norm_k = when<RMSNorm>(c.qk_norm, s / names.norm_k, c.dim / c.heads, 1e-6);
  Linear q{s / names.q, c.dim, c.dim};
  Linear k{s / names.k, c.dim, c.dim};
  Linear v{s / names.v, c.dim, c.dim};

  QueriesKeysValues operator()(const Placed& x) const;
};

struct ImageAttention {
  Scope s;
  JointBlockSettings c;

  AttentionSide image{s, c, kImageSide};
  Linear to_out{s / "to_out" / 0, c.dim, c.dim};

  Tensor operator()(const Placed& x) const;
};

struct JointStates {
  Tensor image, text;
  Place place;  // of the image's tokens
};

struct JointAttention {
  Scope s;
  JointBlockSettings c;

  AttentionSide image{s, c, kImageSide};
  AttentionSide text{s, c, kTextSide};
  Linear to_out{s / "to_out" / 0, c.dim, c.dim};
  std::optional<Linear> to_add_out = when<Linear>(!c.context_pre_only, s / "to_add_out", c.dim, c.dim);

  // The result does not have a text if c.context_pre_only.
  JointStates operator()(const JointStates& x) const;
};

// ---- The block ------------------------------------------------------------------------------------------------------

struct GeluFeedForward {
  Scope s;
  int64_t dim;

  Linear in{s / "net" / 0 / "proj", dim, 4 * dim};
  Linear out{s / "net" / 2, 4 * dim, dim};

  Tensor operator()(const Placed& x) const;
};

struct JointTransformerBlock {
  Scope s;
  JointBlockSettings c;

  AdaLayerNormZero norm1{s / "norm1", c.dim, c.dual_attention ? 3 : 2};
  std::optional<AdaLayerNormZero> norm1_context =
      when<AdaLayerNormZero>(!c.context_pre_only, s / "norm1_context", c.dim, int64_t{2});
  std::optional<AdaLayerNormContinuous> norm1_context_last =
      when<AdaLayerNormContinuous>(c.context_pre_only, s / "norm1_context", c.dim);
  JointAttention attn{s / "attn", c};
  std::optional<ImageAttention> attn2 = when<ImageAttention>(c.dual_attention, s / "attn2", c);
  GeluFeedForward ff{s / "ff", c.dim};
  std::optional<GeluFeedForward> ff_context = when<GeluFeedForward>(!c.context_pre_only, s / "ff_context", c.dim);

  // emb [N, dim], after its activation. The result does not have a text if c.context_pre_only.
  JointStates operator()(JointStates x, const Tensor& emb) const;
};

}  // namespace lora
