#pragma once
// The convolutional blocks that the UNet and the autoencoder share.
#include "nn/elementwise.h"
#include "nn/layers.h"

namespace lora {

// The layers that `make` gives for 0 … n - 1.
template <class Make>
auto each(int64_t n, Make make) {
  std::vector<decltype(make(int64_t{}))> layers;
  for (int64_t i = 0; i < n; ++i) layers.push_back(make(i));
  return layers;
}

// What all residual blocks of a model have in common.
struct ResnetSettings {
  int64_t groups = 32;
  double eps = 1e-6;
  Activation act = Activation::silu;
  int64_t time = 0;          // the size of the time embedding; 0 for none
  bool scale_shift = false;  // the time embedding scales and shifts the second norm, instead of being added before it
  double output_scale = 1;   // what the result is divided by
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

  // x [N, in, H, W] → [N, out, H, W]; time [N, c.time], after its activation, undefined for blocks that take none.
  Tensor operator()(const Tensor& x, const Tensor& time = {}) const;
};

// Half the size. Without padding, the input grows by a row and a column at its far ends instead.
struct Downsample2D {
  Scope s;
  int64_t channels, padding;

  Conv2d conv{s / "conv", channels, channels, 3, 2, padding};

  Tensor operator()(const Tensor& x) const;
};

// Up to the given height and width.
struct Upsample2D {
  Scope s;
  int64_t channels;

  Conv2d conv{s / "conv", channels, channels};

  Tensor operator()(const Tensor& x, at::IntArrayRef size) const;
};

}  // namespace lora
