#include "models/resnet.h"

namespace lora {

Tensor ResnetBlock2D::operator()(const Tensor& x, const Tensor& time) const {
  auto h = conv1(activate(c.act, norm1(x)));
  auto t = time_emb_proj ? (*time_emb_proj)(time).unsqueeze(-1).unsqueeze(-1) : Tensor();
  if (c.scale_shift && t.defined()) {
    auto scale_and_shift = t.chunk(2, 1);
    h = plus(times(norm2(h), 1 + scale_and_shift[0]), scale_and_shift[1]);
  } else {
    h = norm2(t.defined() ? plus(std::move(h), t) : h);
  }
  h = conv2(activate(c.act, std::move(h)));
  h = plus(std::move(h), conv_shortcut ? (*conv_shortcut)(x) : x);
  return c.output_scale == 1 ? h : h / c.output_scale;
}

Tensor Downsample2D::operator()(const Tensor& x) const {
  return conv(padding == 0 ? at::constant_pad_nd(x, {0, 1, 0, 1}) : x);
}

Tensor Upsample2D::operator()(const Tensor& x, at::IntArrayRef size) const {
  return conv(at::upsample_nearest2d(x, size));
}

}  // namespace lora
