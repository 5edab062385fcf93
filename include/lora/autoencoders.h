#pragma once
// The networks that convert between pixels and latents.
#include <ATen/core/Generator.h>

#include "lora/memory.h"
#include "lora/model.h"

namespace lora {

// The arguments of enable_tiling(), under the names of diffusers' attributes.
struct TilingOptions {
  // The side of a tile, in pixels: a multiple of scale_factor(). Without a value: the config's sample_size.
  std::optional<int64_t> tile_sample_min_size;
  double tile_overlap_factor = 0.25;  // the part of a tile that is also in its neighbour, a whole number of latents
};

// Threads: const calls may run at the same time, except that a generator serves one call at a time.
struct DiagonalGaussian {
  Tensor mean, logvar;  // [N, latent_channels, h, w]; logvar is clamped to [-30, 20]
  // Draws one sample. `generators` is empty for torch's default generator, or has one for the batch or one for each
  // image.
  Tensor sample(const std::vector<at::Generator>& generators = {}) const;
  const Tensor& mode() const { return mean; }
};

// diffusers' AutoencoderKL. Threads: as for Model. Settings of slicing and tiling may change at any time: a call takes
// those of its beginning.
class AutoencoderKL : public PretrainedModel<AutoencoderKL> {
 public:
  using PretrainedModel::PretrainedModel;

  // `pixels` is [N, 3, H, W] in [-1, 1]. Throws Error{usage} for other shapes or dtypes.
  DiagonalGaussian encode(const Tensor& pixels) const;
  // `latents` are unscaled, [N, latent_channels, h, w]. Returns [N, 3, H, W], approximately in [-1, 1]. Throws
  // Error{usage} for other shapes or dtypes.
  Tensor decode(const Tensor& latents) const;

  // diffusers' ways to take less memory. With slicing, the images of a batch are encoded and decoded one after the
  // other. With tiling, an image that is larger than a tile is encoded and decoded in tiles, which overlap and are
  // blended. This takes the memory of one tile, but gives other pixels. enable_tiling() throws Error{usage} for tiles
  // that do not fit.
  //
  // Without these calls, encode() and decode() on the CPU decide by themselves. If a batch needs more than the free
  // memory, its images are taken one after the other. If one image needs more, it is taken in tiles. So pixels are
  // those of a whole image, as in diffusers, where the memory is there.
  void enable_slicing();
  void disable_slicing();
  void enable_tiling(const TilingOptions& options = {});
  void disable_tiling();
  // Whether images of so many pixels would be encoded and decoded in tiles now, and how many bytes of memory decode()
  // would take at once beside the weights. The second is an estimate.
  bool uses_tiles(int64_t height, int64_t width, double free = free_memory()) const;
  double decoding_memory(int64_t images, int64_t height, int64_t width, double free = free_memory()) const;

  double scaling_factor() const;
  double shift_factor() const;   // 0 if the config does not have it
  int64_t scale_factor() const;  // pixels per latent in each direction: 2^(levels - 1)
  int64_t latent_channels() const;
  bool force_upcast() const;
};

// diffusers' VQModel: the images of aMUSEd as tokens of a codebook (arXiv:2012.09841). Threads: as for Model. Settings
// of slicing may change at any time: a call takes those of its beginning.
class VQModel : public PretrainedModel<VQModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // `pixels` is [N, 3, H, W], of aMUSEd in [0, 1]. Returns the nearest codebook entries, int64 [N, h, w]. Throws
  // Error{usage} for other shapes or dtypes.
  Tensor encode(const Tensor& pixels) const;
  // `tokens` is int64 [N, h, w]. Returns [N, 3, H, W], of aMUSEd approximately in [0, 1]. Throws Error{usage} for
  // tokens outside the codebook, such as the mask token.
  Tensor decode(const Tensor& tokens) const;

  // As for AutoencoderKL. There are no tiles: diffusers does not have them for this model.
  void enable_slicing();
  void disable_slicing();
  double decoding_memory(int64_t images, int64_t height, int64_t width, double free = free_memory()) const;

  int64_t scale_factor() const;  // pixels per token in each direction: 2^(levels - 1)
  int64_t num_vq_embeddings() const;
  bool force_upcast() const;  // the model needs more precision than float16
};

}  // namespace lora
