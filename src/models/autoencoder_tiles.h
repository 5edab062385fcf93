#pragma once
// How an autoencoder works on large images and batches: whole, image by image, or in tiles.
#include <ATen/ATen.h>

#include <mutex>
#include <optional>

#include "lora/autoencoders.h"

namespace lora {

// The sizes of square tiles. The numbers are those of diffusers' AutoencoderKL.
struct Tiles {
  int64_t sample, latent;  // the side of a tile, in pixels and in latents
  double overlap;          // the part of a tile that is also in its neighbour

  // Tiles of `sample` pixels, `factor` for each latent. Throws Error{usage} where tiles and overlaps are not whole
  // numbers of latents.
  static Tiles of(int64_t sample, int64_t factor, double overlap);
};

// What the calls of a model do. Without a value, a call decides by the memory that there is.
struct PieceSettings {
  std::optional<bool> slicing, tiling;
  Tiles tiles;
};

// The settings of one model. Threads: any number may read and change them at the same time.
class SharedPieceSettings {
 public:
  explicit SharedPieceSettings(Tiles tiles) : settings_{.slicing = {}, .tiling = {}, .tiles = tiles} {}
  PieceSettings now() const {
    std::lock_guard lock(mutex_);
    return settings_;
  }
  template <class Edit>
  void change(const Edit& edit) {
    std::lock_guard lock(mutex_);
    edit(settings_);
  }

 private:
  mutable std::mutex mutex_;
  PieceSettings settings_;
};

// How one call works.
struct Pieces {
  bool by_image = false, by_tile = false;

  // For `images` images that need `bytes` each, and are larger than a tile or not. Where the settings do not say it:
  // image by image if the batch needs more than the `free` memory, and in tiles if one image does.
  static Pieces of(const PieceSettings& settings, int64_t images, double bytes, bool larger_than_tile, double free);
};

// The free memory of a device, as far as it decides how a call works: on a GPU, calls never decide it.
double free_on(const Device& device);

// The bytes that a decoder takes at once for one image of so many pixels, beside its weights. `channels` are those of
// the stages, from pixels to latents. Measured on the CPU: the largest map of the decoder, 3.5 times in float32 and 4.5
// times in the half types. An encoder takes less.
double decoder_bytes(const std::vector<int64_t>& channels, double pixels, Dtype dtype);

// work(x), or work() of each image alone, one after the other.
template <class Work>
Tensor in_slices(const Tensor& x, bool by_image, const Work& work) {
  if (!by_image || x.size(0) == 1) return work(x);
  std::vector<Tensor> all;
  for (int64_t i = 0; i < x.size(0); ++i) all.push_back(work(x.slice(0, i, i + 1)));
  return at::cat(all);
}

// Blends the end of `before` into the beginning of `tile`, over `extent` rows or columns (dimension `dim`).
void blend(const Tensor& before, const Tensor& tile, int64_t dim, int64_t extent);

// What work() makes of the tiles of x [N, channels, H, W], put together. A tile of `from` × `from` becomes one of `to`
// × `to`. Neighbours overlap, and are blended where they do.
template <class Work>
Tensor in_tiles(const Tensor& x, int64_t from, int64_t to, double overlap, const Work& work) {
  const auto step = int64_t(double(from) * (1 - overlap)), extent = int64_t(double(to) * overlap);
  std::vector<Tensor> above, rows;
  for (int64_t y = 0; y < x.size(2); y += step) {
    std::vector<Tensor> row, kept;
    for (int64_t column = 0; column < x.size(3); column += step) {
      const auto i = row.size();
      row.push_back(work(x.slice(2, y, y + from).slice(3, column, column + from)));
      if (!above.empty()) blend(above[i], row[i], 2, extent);
      if (i > 0) blend(row[i - 1], row[i], 3, extent);
      kept.push_back(row[i].slice(2, 0, to - extent).slice(3, 0, to - extent));
    }
    rows.push_back(at::cat(kept, 3));
    above = std::move(row);
  }
  return at::cat(rows, 2);
}

}  // namespace lora
