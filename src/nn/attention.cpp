#include "nn/attention.h"

#include "nn/elementwise.h"

namespace lora {

Tensor Attention::operator()(const Placed& x, const Placed& c, const Tensor& mask) const {
  auto split = [&](const Tensor& t) { return t.unflatten(-1, {heads, -1}).transpose(1, 2); };
  auto q = split(to_q(x)), k = split(to_k(c)), v = split(to_v(c));
  auto y = at::scaled_dot_product_attention(q, k, v, mask.defined() ? std::optional(mask) : std::nullopt);
  return to_out({y.transpose(1, 2).flatten(2), x.place});
}

Tensor GegluFeedForward::operator()(const Placed& x) const {
  auto halves = in(x).chunk(2, -1);
  return out({times(at::gelu(halves[1]), halves[0]), x.place});
}

}  // namespace lora
