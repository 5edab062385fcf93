#pragma once
// The networks between pixels and latents.
#include <ATen/core/Generator.h>

#include "lora/model.h"

namespace lora {

struct DiagonalGaussian {
  Tensor mean, logvar;  // [N, latent_channels, h, w]; logvar clamped to [-30, 20]
  Tensor sample(const std::vector<at::Generator>& generators = {}) const;
  const Tensor& mode() const { return mean; }
};

// diffusers' AutoencoderKL.
class AutoencoderKL : public PretrainedModel<AutoencoderKL> {
 public:
  using PretrainedModel::PretrainedModel;

  DiagonalGaussian encode(const Tensor& pixels) const;  // [N, 3, H, W] in [-1, 1]
  Tensor decode(const Tensor& latents) const;           // unscaled latents to [N, 3, H, W], about [-1, 1]

  double scaling_factor() const;
  double shift_factor() const;   // 0 where the config has none
  int64_t scale_factor() const;  // pixels per latent along a side: 2^(levels - 1)
  int64_t latent_channels() const;
  bool force_upcast() const;
};

// diffusers' VQModel: aMUSEd's pictures as tokens of a codebook (arXiv:2012.09841).
class VQModel : public PretrainedModel<VQModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // [N, 3, H, W] in [-1, 1] to int64 [N, h, w], the nearest codebook entries. Throws Error{usage} for another shape or
  // dtype than the model's.
  Tensor encode(const Tensor& pixels) const;
  // int64 [N, h, w] to [N, 3, H, W], about [-1, 1]. Throws Error{usage} for tokens outside the codebook, such as the
  // mask token.
  Tensor decode(const Tensor& tokens) const;

  int64_t scale_factor() const;  // pixels per token along a side: 2^(levels - 1)
  int64_t num_vq_embeddings() const;
  bool force_upcast() const;  // float16 is not enough for it
};

}  // namespace lora
