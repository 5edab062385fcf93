#pragma once
// The networks that convert between pixels and latents.
#include <ATen/core/Generator.h>

#include "lora/model.h"

namespace lora {

// Threads: const calls may run at the same time, except that a generator serves one call at a time.
struct DiagonalGaussian {
  Tensor mean, logvar;  // [N, latent_channels, h, w]; logvar is clamped to [-30, 20]
  // Draws one sample. `generators` is empty for torch's default generator, or has one for the batch or one for each
  // image.
  Tensor sample(const std::vector<at::Generator>& generators = {}) const;
  const Tensor& mode() const { return mean; }
};

// diffusers' AutoencoderKL. Threads: as for Model.
class AutoencoderKL : public PretrainedModel<AutoencoderKL> {
 public:
  using PretrainedModel::PretrainedModel;

  // `pixels` is [N, 3, H, W] in [-1, 1]. Throws Error{usage} for other shapes or dtypes.
  DiagonalGaussian encode(const Tensor& pixels) const;
  // `latents` are unscaled, [N, latent_channels, h, w]. Returns [N, 3, H, W], approximately in [-1, 1]. Throws
  // Error{usage} for other shapes or dtypes.
  Tensor decode(const Tensor& latents) const;

  double scaling_factor() const;
  double shift_factor() const;   // 0 if the config does not have it
  int64_t scale_factor() const;  // pixels per latent in each direction: 2^(levels - 1)
  int64_t latent_channels() const;
  bool force_upcast() const;
};

// diffusers' VQModel: the images of aMUSEd as tokens of a codebook (arXiv:2012.09841). Threads: as for Model.
class VQModel : public PretrainedModel<VQModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // `pixels` is [N, 3, H, W], of aMUSEd in [0, 1]. Returns the nearest codebook entries, int64 [N, h, w]. Throws
  // Error{usage} for other shapes or dtypes.
  Tensor encode(const Tensor& pixels) const;
  // `tokens` is int64 [N, h, w]. Returns [N, 3, H, W], of aMUSEd approximately in [0, 1]. Throws Error{usage} for
  // tokens outside the codebook, such as the mask token.
  Tensor decode(const Tensor& tokens) const;

  int64_t scale_factor() const;  // pixels per token in each direction: 2^(levels - 1)
  int64_t num_vq_embeddings() const;
  bool force_upcast() const;  // the model needs more precision than float16
};

}  // namespace lora
