#include "models/transformer_2d.h"

#include "nn/elementwise.h"

namespace lora {

namespace {

// [N, C, H, W] → [N, H · W, C] and back.
Tensor to_positions(const Tensor& x) { return x.flatten(2).transpose(1, 2).contiguous(); }
Tensor to_map(const Tensor& x, const Tensor& like) { return x.transpose(1, 2).view(like.sizes()); }

}  // namespace

Tensor BasicTransformerBlock::operator()(const Tensor& x, const Tensor& context, const Tensor& mask) const {
  auto n = norm1(x);
  auto h = plus(attn1(n, c.only_cross_attention ? context : n), x);
  h = plus(attn2(norm2(h), context, mask), h);
  return plus(ff(norm3(h)), h);
}

Tensor Transformer2DModel::operator()(const Tensor& x, const Tensor& context, const Tensor& mask) const {
  auto h = norm(x);
  h = linear_in ? (*linear_in)(to_positions(h)) : to_positions((*conv_in)(h));
  for (const auto& block : transformer_blocks) h = block(h, context, mask);
  if (linear_out) return x + to_map((*linear_out)(h), x);
  return plus((*conv_out)(to_map(h, x).contiguous()), x);
}

}  // namespace lora
