#pragma once
// The stages of the UNet: down to smaller feature maps, the middle, and back up.
#include "models/resnet.h"
#include "models/transformer_2d.h"

namespace lora {

// One stage. In a stage with attention, a transformer follows each residual block.
struct StageSettings {
  int64_t out;     // channels
  int64_t layers;  // residual blocks
  std::vector<int64_t>
      depths;  // the depth of the transformer after each residual block; empty for a stage without attention
  TransformerSettings transformer;
  bool resample;  // whether the stage ends by changing the size
};

// The inputs of all stages in one call.
struct Conditioning {
  Tensor time;     // [N, time], after its activation
  Tensor context;  // [N, tokens, context]
  Tensor mask;     // added to the scores of cross-attention: [N, 1, 1, tokens], or undefined
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

  // Returns the outputs of all layers, for the way up. The last one is the output of the stage.
  std::vector<Tensor> operator()(Tensor x, const Conditioning& given) const;
};

// UpBlock2D and CrossAttnUpBlock2D.
struct UpBlock2D {
  Scope s;
  std::vector<int64_t> in;  // input channels of each residual block, with those from the way down
  StageSettings c;
  ResnetSettings resnet;

  std::vector<Transformer2DModel> attentions = transformers(s / "attentions", c);
  std::vector<ResnetBlock2D> resnets = each(c.layers, [&](int64_t i) {
    return ResnetBlock2D{s / "resnets" / i, in[i], c.out, resnet};
  });
  std::optional<Upsample2D> upsampler = when<Upsample2D>(c.resample, s / "upsamplers" / 0, c.out);

  // `skips` are the outputs of the way down for these residual blocks, in reverse order. `size` is the height and width
  // after the upsampling.
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
