#include "models/autoencoder_blocks.h"

#include "core/check.h"

namespace lora {

namespace {

void check_block_types(ConfigReader& config, const std::string& field, const std::string& supported, size_t n) {
  auto types = config.words(field, {supported});
  for (const auto& type : types)
    if (type != supported) config.refuse(field, "lists of \"" + supported + "\"");
  if (types.size() != n) config.reject(field, fmt::format("a list of {} texts, one for each of block_out_channels", n));
}

}  // namespace

AutoencoderSettings AutoencoderSettings::parse(ConfigReader& config) {
  AutoencoderSettings c;
  c.channels = config.integers("block_out_channels", {64});
  c.layers = config.integer("layers_per_block", 1);
  c.resnet = {.groups = config.integer("norm_num_groups", 32), .act = config.activation("act_fn")};
  c.mid_attention = config.flag("mid_block_add_attention", true);
  check_block_types(config, "down_block_types", "DownEncoderBlock2D", c.channels.size());
  check_block_types(config, "up_block_types", "UpDecoderBlock2D", c.channels.size());
  for (auto channels : c.channels)
    if (channels % c.resnet.groups != 0) config.reject("norm_num_groups", "a divisor of all block_out_channels");
  return c;
}

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
