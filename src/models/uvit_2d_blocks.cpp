#include "models/uvit_2d_blocks.h"

namespace lora {

namespace {

// Views with the channels first, for convolutions, and back. The memory keeps the channels last.
Tensor channels_first(const Tensor& x) { return x.permute({0, 3, 1, 2}); }
Tensor channels_last(const Tensor& x) { return x.permute({0, 2, 3, 1}); }

// The place of a feature map [N, h, w, channels].
Place place_of(const Tensor& map) { return {map.size(1), map.size(2)}; }

// x · (1 + scale) + shift. Both are in one tensor, [N, 1, …, 2 · channels].
Tensor modulate(Tensor&& x, const Tensor& scale_and_shift) {
  auto halves = scale_and_shift.chunk(2, -1);
  return plus(times(std::move(x), 1 + halves[0]), halves[1]);
}

}  // namespace

Tensor UVit2DConvEmbed::operator()(const Tensor& ids) const {
  return channels_last(conv(channels_first(layer_norm(embeddings({ids, place_of(ids)})))));
}

Tensor GlobalResponseNorm::operator()(const Tensor& x) const {
  auto energy = at::norm(x, 2, {1, 2}, /*keepdim=*/true);
  auto relative = energy / (energy.mean(-1, /*keepdim=*/true) + 1e-6);
  return at::addcmul(beta, x, gamma * relative + 1);
}

Tensor ConvNextBlock::operator()(const Tensor& x, const UVitConditioning& given) const {
  const auto here = place_of(x);
  auto h = channelwise_linear_1({norm(channels_last(depthwise(channels_first(x)))), here});
  h = channelwise_linear_2({channelwise_norm(activate(Activation::gelu, std::move(h))), here});
  return modulate(plus(std::move(h), x), cond_embeds_mapper(given.embed).unsqueeze(1).unsqueeze(1));
}

Tensor SkipFFTransformerBlock::operator()(const Placed& x, const UVitConditioning& given) const {
  const Placed context{kv_mapper ? (*kv_mapper)({given.activated_context, kText}) : given.context, kText};
  auto h = plus(attn1({norm1(x.x), x.place}, context), x.x);
  return plus(attn2({norm2(h), x.place}, context), h);
}

Tensor UVitDownsample::operator()(const Tensor& x) const { return channels_last(conv(channels_first(norm(x)))); }

Tensor UVitUpsample::operator()(const Tensor& x) const {
  return channels_last(at::conv_transpose2d(channels_first(norm(x)), conv_weight, {}, /*stride=*/2));
}

Tensor UVitBlock::operator()(Tensor x, const UVitConditioning& given) const {
  if (downsample) x = (*downsample)(x);
  const auto here = place_of(x);
  for (size_t i = 0; i < res_blocks.size(); ++i) {
    x = res_blocks[i](x, given).flatten(1, 2);
    x = attention_blocks[i]({x, here}, given).unflatten(1, {here.height, here.width});
  }
  return upsample ? (*upsample)(x) : x;
}

Tensor UVitAdaRMSNorm::operator()(const Tensor& x, const UVitConditioning& given) const {
  return modulate(norm(x), linear(given.embed).unsqueeze(1));
}

Tensor UVitAdaLayerNorm::operator()(const Tensor& x, const UVitConditioning& given) const {
  return modulate(norm(x), linear(given.embed).unsqueeze(1));
}

Tensor UVitTransformerLayer::operator()(const Placed& x, const UVitConditioning& given) const {
  const Placed n{norm1(x.x, given), x.place};
  auto h = plus(attn1(n, n), x.x);
  h = plus(attn2({norm2(h, given), x.place}, {given.context, kText}), h);
  return plus(ff({norm3(h, given), x.place}), h);
}

Tensor ConvMlmLayer::operator()(const Tensor& x) const {
  auto h = layer_norm(channels_last(conv1(channels_first(x))));
  return conv2(channels_first(h));
}

}  // namespace lora
