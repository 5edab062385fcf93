#include "models/uvit_2d_blocks.h"

namespace lora {

namespace {

// To where convolutions want the channels, and back: views, whose memory keeps the channels last.
Tensor channels_first(const Tensor& x) { return x.permute({0, 3, 1, 2}); }
Tensor channels_last(const Tensor& x) { return x.permute({0, 2, 3, 1}); }

// x · (1 + scale) + shift, both from one layer's output [N, 1, …, 2 · channels].
Tensor modulate(Tensor&& x, const Tensor& scale_and_shift) {
  auto halves = scale_and_shift.chunk(2, -1);
  return plus(times(std::move(x), 1 + halves[0]), halves[1]);
}

}  // namespace

Tensor UVit2DConvEmbed::operator()(const Tensor& ids) const {
  return channels_last(conv(channels_first(layer_norm(embeddings(ids)))));
}

Tensor GlobalResponseNorm::operator()(const Tensor& x) const {
  auto energy = at::norm(x, 2, {1, 2}, /*keepdim=*/true);
  auto share = energy / (energy.mean(-1, /*keepdim=*/true) + 1e-6);
  return at::addcmul(beta, x, gamma * share + 1);
}

Tensor ConvNextBlock::operator()(const Tensor& x, const UVitConditioning& given) const {
  auto h = channelwise_linear_1(norm(channels_last(depthwise(channels_first(x)))));
  h = channelwise_linear_2(channelwise_norm(activate(Activation::gelu, std::move(h))));
  return modulate(plus(std::move(h), x), cond_embeds_mapper(given.embed).unsqueeze(1).unsqueeze(1));
}

Tensor SkipFFTransformerBlock::operator()(const Tensor& x, const UVitConditioning& given) const {
  auto context = kv_mapper ? (*kv_mapper)(given.activated_context) : given.context;
  auto h = plus(attn1(norm1(x), context), x);
  return plus(attn2(norm2(h), context), h);
}

Tensor UVitDownsample::operator()(const Tensor& x) const { return channels_last(conv(channels_first(norm(x)))); }

Tensor UVitUpsample::operator()(const Tensor& x) const {
  return channels_last(at::conv_transpose2d(channels_first(norm(x)), conv_weight, {}, /*stride=*/2));
}

Tensor UVitBlock::operator()(Tensor x, const UVitConditioning& given) const {
  if (downsample) x = (*downsample)(x);
  const auto h = x.size(1), w = x.size(2);
  for (size_t i = 0; i < res_blocks.size(); ++i) {
    x = res_blocks[i](x, given).flatten(1, 2);
    x = attention_blocks[i](x, given).unflatten(1, {h, w});
  }
  return upsample ? (*upsample)(x) : x;
}

Tensor UVitAdaRMSNorm::operator()(const Tensor& x, const UVitConditioning& given) const {
  return modulate(norm(x), linear(given.embed).unsqueeze(1));
}

Tensor UVitAdaLayerNorm::operator()(const Tensor& x, const UVitConditioning& given) const {
  return modulate(norm(x), linear(given.embed).unsqueeze(1));
}

Tensor UVitTransformerLayer::operator()(const Tensor& x, const UVitConditioning& given) const {
  auto n = norm1(x, given);
  auto h = plus(attn1(n, n), x);
  h = plus(attn2(norm2(h, given), given.context), h);
  return plus(ff(norm3(h, given)), h);
}

Tensor ConvMlmLayer::operator()(const Tensor& x) const {
  auto h = layer_norm(channels_last(conv1(channels_first(x))));
  return conv2(channels_first(h));
}

}  // namespace lora
