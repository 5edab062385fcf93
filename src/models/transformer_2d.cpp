#include "models/transformer_2d.h"

#include "nn/elementwise.h"

namespace lora {

namespace {

// [N, C, H, W] → [N, H · W, C] and back.
Tensor to_positions(const Tensor& x) { return x.flatten(2).transpose(1, 2).contiguous(); }
Tensor to_map(const Tensor& x, const Tensor& like) { return x.transpose(1, 2).view(like.sizes()); }

}  // namespace

Tensor BasicTransformerBlock::operator()(const Placed& x, const Tensor& context, const Tensor& mask) const {
  const Placed text{context, kText}, n{norm1(x.x), x.place};
  auto h = plus(attn1(n, c.only_cross_attention ? text : n), x.x);
  h = plus(attn2({norm2(h), x.place}, text, mask), h);
  return plus(ff({norm3(h), x.place}), h);
}

Tensor Transformer2DModel::operator()(const Tensor& x, const Tensor& context, const Tensor& mask) const {
  const Place here{x.size(2), x.size(3)};
  auto h = norm(x);
  h = linear_in ? (*linear_in)({to_positions(h), here}) : to_positions((*conv_in)(h));
  for (const auto& block : transformer_blocks) h = block({h, here}, context, mask);
  if (linear_out) return x + to_map((*linear_out)({h, here}), x);
  return plus((*conv_out)(to_map(h, x).contiguous()), x);
}

}  // namespace lora
