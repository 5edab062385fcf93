#include "models/autoencoder_blocks.h"

namespace lora {

Tensor SpatialAttention::operator()(const Tensor& x) const {
  auto h = group_norm(x.flatten(2)).transpose(1, 2).contiguous();
  return x + attention(h, h).transpose(1, 2).view(x.sizes());
}

Tensor AutoencoderMidBlock::operator()(const Tensor& x) const {
  auto h = resnets[0](x);
  return resnets[1](attention ? (*attention)(h) : h);
}

Tensor DownEncoderBlock2D::operator()(Tensor x) const {
  for (const auto& resnet : resnets) x = resnet(x);
  return downsampler ? (*downsampler)(x) : x;
}

Tensor UpDecoderBlock2D::operator()(Tensor x) const {
  for (const auto& resnet : resnets) x = resnet(x);
  return upsampler ? (*upsampler)(x, {2 * x.size(2), 2 * x.size(3)}) : x;
}

Tensor Encoder::operator()(const Tensor& pixels) const {
  auto h = conv_in(pixels);
  for (const auto& block : down_blocks) h = block(std::move(h));
  return conv_out(activate(Activation::silu, conv_norm_out(mid_block(h))));
}

Tensor Decoder::operator()(const Tensor& latents) const {
  auto h = mid_block(conv_in(latents));
  for (const auto& block : up_blocks) h = block(std::move(h));
  return conv_out(activate(Activation::silu, conv_norm_out(h)));
}

}  // namespace lora
