#include "models/autoencoder_tiles.h"

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "lora/memory.h"

namespace lora {

Tiles Tiles::of(int64_t sample, int64_t factor, double overlap) {
  check(sample >= factor && sample % factor == 0, ErrorKind::usage,
        "tile_sample_min_size is {}. It must be a multiple of {}, the pixels of a latent", sample, factor);
  check(overlap >= 0 && overlap < 1, ErrorKind::usage, "tile_overlap_factor is {}. It must be at least 0 and below 1",
        overlap);
  const auto latent = sample / factor;
  auto part = [](int64_t side, double fraction) { return int64_t(double(side) * fraction); };
  // Steps and kept parts of tiles must be the same, in latents and in pixels.
  const auto step = part(latent, 1 - overlap);
  check(step > 0 && step == latent - part(latent, overlap) && step * factor == part(sample, 1 - overlap) &&
            step * factor == sample - part(sample, overlap),
        ErrorKind::usage,
        "tile_overlap_factor is {}. The overlap of tiles of {} latents must be a whole number of latents", overlap,
        latent);
  return {.sample = sample, .latent = latent, .overlap = overlap};
}

Pieces Pieces::of(const PieceSettings& s, int64_t images, double bytes, bool larger_than_tile, double free) {
  return {.by_image = s.slicing.value_or(double(images) * bytes > free),
          .by_tile = larger_than_tile && s.tiling.value_or(bytes > free)};
}

double free_on(const Device& device) {
  return device.is_cpu() ? free_memory() : std::numeric_limits<double>::infinity();
}

double decoder_bytes(const std::vector<int64_t>& channels, double pixels, Dtype dtype) {
  const auto widest = channels[std::min<size_t>(1, channels.size() - 1)];  // at full size
  const bool is_half = c10::elementSize(dtype) < 4;
  return pixels * double(widest) * (is_half ? 4.5 : 3.5) * double(c10::elementSize(dtype));
}

void blend(const Tensor& before, const Tensor& tile, int64_t dim, int64_t extent) {
  extent = std::min({before.size(dim), tile.size(dim), extent});
  for (int64_t i = 0; i < extent; ++i) {
    const double share = double(i) / double(extent);
    auto own = tile.select(dim, i);
    own.copy_(before.select(dim, before.size(dim) - extent + i) * (1 - share) + own * share);
  }
}

}  // namespace lora
