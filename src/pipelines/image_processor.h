#pragma once
// Images to tensors, as diffusers' VaeImageProcessor. Images of another size are resized by Lanczos.
#include <vector>

#include "lora/image.h"
#include "lora/tensor.h"

namespace lora {

// [N, 3, height, width] float32 in [-1, 1].
Tensor to_pixels(const std::vector<Image>& images, int64_t height, int64_t width);

// [N, 1, height, width] float32 in [0, 1]: black to white.
Tensor to_grey(const std::vector<Image>& images, int64_t height, int64_t width);

// The same in two values: 1 where the image is at least half white, else 0.
Tensor to_mask(const std::vector<Image>& images, int64_t height, int64_t width);

}  // namespace lora
