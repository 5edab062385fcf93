#pragma once
// The encoder and the decoder of an autoencoder.
#include <string>

#include "models/config_reader.h"
#include "models/resnet.h"
#include "nn/attention.h"

namespace lora {

struct AutoencoderSettings {
  std::vector<int64_t> channels;  // of each stage, from pixels to latents
  int64_t layers;                 // residual blocks in each stage of the encoder; the decoder has one more
  ResnetSettings resnet;
  bool mid_attention;

  // Reads block_out_channels, layers_per_block, … and checks that all blocks have the supported type.
  static AutoencoderSettings parse(ConfigReader& config);
};

// Self-attention over all positions, with one head.
struct SpatialAttention {
  Scope s;
  int64_t channels;
  ResnetSettings c;

  GroupNorm group_norm{s / "group_norm", channels, c.groups, c.eps};
  Attention attention{s, channels, channels, 1, true};

  Tensor operator()(const Tensor& x) const;
};

struct AutoencoderMidBlock {
  Scope s;
  int64_t channels;
  AutoencoderSettings c;

  std::optional<SpatialAttention> attention =
      when<SpatialAttention>(c.mid_attention, s / "attentions" / 0, channels, c.resnet);
  std::vector<ResnetBlock2D> resnets = repeat<ResnetBlock2D>(s / "resnets", 2, channels, channels, c.resnet);

  Tensor operator()(const Tensor& x) const;
};

struct DownEncoderBlock2D {
  Scope s;
  int64_t in, out;
  AutoencoderSettings c;
  bool resample;

  std::vector<ResnetBlock2D> resnets = each(c.layers, [&](int64_t i) {
    return ResnetBlock2D{s / "resnets" / i, i == 0 ? in : out, out, c.resnet};
  });
  std::optional<Downsample2D> downsampler = when<Downsample2D>(resample, s / "downsamplers" / 0, out, 0);

  Tensor operator()(Tensor x) const;
};

struct UpDecoderBlock2D {
  Scope s;
  int64_t in, out;
  AutoencoderSettings c;
  bool resample;

  std::vector<ResnetBlock2D> resnets = each(c.layers + 1, [&](int64_t i) {
    return ResnetBlock2D{s / "resnets" / i, i == 0 ? in : out, out, c.resnet};
  });
  std::optional<Upsample2D> upsampler = when<Upsample2D>(resample, s / "upsamplers" / 0, out);

  Tensor operator()(Tensor x) const;
};

// Pixels [N, in, H, W] → [N, out, H / 2^(stages - 1), W / 2^(stages - 1)].
struct Encoder {
  Scope s;
  int64_t in, out;
  AutoencoderSettings c;

  Conv2d conv_in{s / "conv_in", in, c.channels.front()};
  std::vector<DownEncoderBlock2D> down_blocks = each(static_cast<int64_t>(c.channels.size()), [&](int64_t i) {
    const bool last = i + 1 == static_cast<int64_t>(c.channels.size());
    return DownEncoderBlock2D{s / "down_blocks" / i, c.channels[i == 0 ? 0 : i - 1], c.channels[i], c, !last};
  });
  AutoencoderMidBlock mid_block{s / "mid_block", c.channels.back(), c};
  GroupNorm conv_norm_out{s / "conv_norm_out", c.channels.back(), c.resnet.groups, c.resnet.eps};
  Conv2d conv_out{s / "conv_out", c.channels.back(), out};

  Tensor operator()(const Tensor& pixels) const;
};

// Latents [N, in, h, w] → [N, out, h · 2^(stages - 1), w · 2^(stages - 1)].
struct Decoder {
  Scope s;
  int64_t in, out;
  AutoencoderSettings c;

  Conv2d conv_in{s / "conv_in", in, c.channels.back()};
  std::vector<UpDecoderBlock2D> up_blocks = each(static_cast<int64_t>(c.channels.size()), [&](int64_t i) {
    const auto stage = static_cast<int64_t>(c.channels.size()) - 1 - i;
    const auto before = c.channels[i == 0 ? stage : stage + 1];
    return UpDecoderBlock2D{s / "up_blocks" / i, before, c.channels[stage], c, stage > 0};
  });
  AutoencoderMidBlock mid_block{s / "mid_block", c.channels.back(), c};
  GroupNorm conv_norm_out{s / "conv_norm_out", c.channels.front(), c.resnet.groups, c.resnet.eps};
  Conv2d conv_out{s / "conv_out", c.channels.front(), out};

  Tensor operator()(const Tensor& latents) const;
};

}  // namespace lora
