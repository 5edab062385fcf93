#pragma once
// The stages of the UNet: down to smaller feature maps, the middle, and up again.
#include "models/resnet.h"
#include "models/transformer_2d.h"

namespace lora {

// One stage. A stage with attention follows each residual block by a transformer.
struct StageSettings {
  int64_t out;                  // channels
  int64_t layers;               // residual blocks
  std::vector<int64_t> depths;  // of the transformers, one a residual block; empty for a stage without attention
  TransformerSettings transformer;
  bool resample;  // whether the stage ends by changing the size
};

// What every stage of one call is told.
struct Conditioning {
  Tensor time;     // [N, time], after its activation
  Tensor context;  // [N, tokens, context]
  Tensor mask;     // added to the scores of attention to the context: [N, 1, 1, tokens], or undefined
};

inline std::vector<Transformer2DModel> transformers(const Scope& s, const StageSettings& c) {
  return each(static_cast<int64_t>(c.depths.size()), [&](int64_t i) {
    return Transformer2DModel{s / i, c.out, c.depths[i], c.transformer};
  });
}

// DownBlock2D and CrossAttnDownBlock2D.
struct DownBlock2D {
  Scope s;
  int64_t in;
  StageSettings c;
  ResnetSettings resnet;
  int64_t downsample_padding;

  std::vector<Transformer2DModel> attentions = transformers(s / "attentions", c);
  std::vector<ResnetBlock2D> resnets = each(c.layers, [&](int64_t i) {
    return ResnetBlock2D{s / "resnets" / i, i == 0 ? in : c.out, c.out, resnet};
  });
  std::optional<Downsample2D> downsampler =
      when<Downsample2D>(c.resample, s / "downsamplers" / 0, c.out, downsample_padding);

  // The outputs of every layer, for the way up; the last is the stage's own.
  std::vector<Tensor> operator()(Tensor x, const Conditioning& given) const;
};

// UpBlock2D and CrossAttnUpBlock2D.
struct UpBlock2D {
  Scope s;
  std::vector<int64_t> in;  // channels that each residual block takes, with those from the way down
  StageSettings c;
  ResnetSettings resnet;

  std::vector<Transformer2DModel> attentions = transformers(s / "attentions", c);
  std::vector<ResnetBlock2D> resnets = each(c.layers, [&](int64_t i) {
    return ResnetBlock2D{s / "resnets" / i, in[i], c.out, resnet};
  });
  std::optional<Upsample2D> upsampler = when<Upsample2D>(c.resample, s / "upsamplers" / 0, c.out);

  // `skips` are what the way down left for these residual blocks, the first block's last; `size` is where to go up to.
  Tensor operator()(Tensor x, std::vector<Tensor> skips, at::IntArrayRef size, const Conditioning& given) const;
};

// UNetMidBlock2DCrossAttn and UNetMidBlock2D: a residual block, and one more after each transformer.
struct MidBlock2D {
  Scope s;
  StageSettings c;
  ResnetSettings resnet;

  std::vector<Transformer2DModel> attentions = transformers(s / "attentions", c);
  std::vector<ResnetBlock2D> resnets = repeat<ResnetBlock2D>(s / "resnets", c.layers, c.out, c.out, resnet);

  Tensor operator()(const Tensor& x, const Conditioning& given) const;
};

}  // namespace lora
