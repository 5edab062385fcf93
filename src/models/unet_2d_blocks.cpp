#include "models/unet_2d_blocks.h"

namespace lora {

std::vector<Tensor> DownBlock2D::operator()(Tensor x, const Conditioning& given) const {
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < resnets.size(); ++i) {
    x = resnets[i](x, given.time);
    if (!attentions.empty()) x = attentions[i](x, given.context, given.mask);
    outputs.push_back(x);
  }
  if (downsampler) outputs.push_back((*downsampler)(x));
  return outputs;
}

Tensor UpBlock2D::operator()(Tensor x, std::vector<Tensor> skips, at::IntArrayRef size,
                             const Conditioning& given) const {
  for (size_t i = 0; i < resnets.size(); ++i) {
    x = at::cat({x, skips.back()}, 1);
    skips.pop_back();
    x = resnets[i](x, given.time);
    if (!attentions.empty()) x = attentions[i](x, given.context, given.mask);
  }
  return upsampler ? (*upsampler)(x, size) : x;
}

Tensor MidBlock2D::operator()(const Tensor& x, const Conditioning& given) const {
  auto h = resnets[0](x, given.time);
  for (size_t i = 0; i < attentions.size(); ++i)
    h = resnets[i + 1](attentions[i](h, given.context, given.mask), given.time);
  return h;
}

}  // namespace lora
