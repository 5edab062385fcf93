#pragma once
#include "nn/layers.h"

namespace lora {

// Attention with equally many query heads and key heads. For self-attention, pass x as c.
struct Attention {
  Scope s;
  int64_t dim, context, heads;
  bool bias = false;  // of queries, keys and values
  bool out_bias = true;

  Linear to_q{s / "to_q", dim, dim, bias};
  Linear to_k{s / "to_k", context, dim, bias};
  Linear to_v{s / "to_v", context, dim, bias};
  Linear to_out{s / "to_out" / 0, dim, dim, out_bias};

  // x [N, tokens, dim], c [N, others, context] → [N, tokens, dim]. If `mask` is defined, it is added to the scores. It
  // broadcasts to [N, heads, tokens, others].
  Tensor operator()(const Placed& x, const Placed& c, const Tensor& mask = {}) const;
};

// A gated feed-forward: one half of the output of the first layer is the gate of the other half.
struct GegluFeedForward {
  Scope s;
  int64_t dim, inner = 4 * dim;
  bool bias = true;

  Linear in{s / "net" / 0 / "proj", dim, 2 * inner, bias};
  Linear out{s / "net" / 2, inner, dim, bias};

  Tensor operator()(const Placed& x) const;
};

}  // namespace lora
