#pragma once
// The convolutional blocks of the UNet and of the autoencoder.
#include "nn/elementwise.h"
#include "nn/layers.h"

namespace lora {

// The list of the layers make(0) … make(n - 1).
template <class Make>
auto each(int64_t n, Make make) {
  std::vector<decltype(make(int64_t{}))> layers;
  for (int64_t i = 0; i < n; ++i) layers.push_back(make(i));
  return layers;
}

// The settings of all residual blocks of a model.
struct ResnetSettings {
  int64_t groups = 32;
  double eps = 1e-6;
  Activation act = Activation::silu;
  int64_t time = 0;          // the size of the time embedding; 0 for none
  bool scale_shift = false;  // true: the time embedding scales and shifts the second norm; false: it is added before it
  double output_scale = 1;   // the result is divided by it
};

struct ResnetBlock2D {
  Scope s;
  int64_t in, out;
  ResnetSettings c;

  GroupNorm norm1{s / "norm1", in, c.groups, c.eps};
  Conv2d conv1{s / "conv1", in, out};
  std::optional<Linear> time_emb_proj =
      when<Linear>(c.time > 0, s / "time_emb_proj", c.time, c.scale_shift ? 2 * out : out);
  GroupNorm norm2{s / "norm2", out, c.groups, c.eps};
  Conv2d conv2{s / "conv2", out, out};
  std::optional<Conv2d> conv_shortcut = when<Conv2d>(in != out, s / "conv_shortcut", in, out, 1);

  // x [N, in, H, W] → [N, out, H, W]. time [N, c.time], after its activation; undefined if c.time is 0.
  Tensor operator()(const Tensor& x, const Tensor& time = {}) const;
};

// Halves the height and width. If `padding` is 0, one row and one column of zeros are added at the end of the input.
struct Downsample2D {
  Scope s;
  int64_t channels, padding;

  Conv2d conv{s / "conv", channels, channels, 3, 2, padding};

  Tensor operator()(const Tensor& x) const;
};

// Resizes to the given height and width.
struct Upsample2D {
  Scope s;
  int64_t channels;

  Conv2d conv{s / "conv", channels, channels};

  Tensor operator()(const Tensor& x, at::IntArrayRef size) const;
};

}  // namespace lora
