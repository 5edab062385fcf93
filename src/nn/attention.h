#pragma once
#include "nn/layers.h"

namespace lora {

// Attention with as many key heads as query heads. Self-attention is attention to one's own input.
struct Attention {
  Scope s;
  int64_t dim, context, heads;
  bool bias = false;  // of queries, keys and values
  bool out_bias = true;

  Linear to_q{s / "to_q", dim, dim, bias};
  Linear to_k{s / "to_k", context, dim, bias};
  Linear to_v{s / "to_v", context, dim, bias};
  Linear to_out{s / "to_out" / 0, dim, dim, out_bias};

  // x [N, tokens, dim], c [N, others, context] → [N, tokens, dim]. The mask, if defined, is added to the scores: it
  // broadcasts to [N, heads, tokens, others].
  Tensor operator()(const Placed& x, const Placed& c, const Tensor& mask = {}) const;
};

// A gated feed-forward: one half of the first layer's output opens and shuts the other.
struct GegluFeedForward {
  Scope s;
  int64_t dim, inner = 4 * dim;
  bool bias = true;

  Linear in{s / "net" / 0 / "proj", dim, 2 * inner, bias};
  Linear out{s / "net" / 2, inner, dim, bias};

  Tensor operator()(const Placed& x) const;
};

}  // namespace lora
