#pragma once
// Pictures into what models take, as diffusers' VaeImageProcessor.
#include <vector>

#include "lora/image.h"
#include "lora/tensor.h"

namespace lora {

// [N, 3, height, width] float32 in [-1, 1], resized by Lanczos where a size differs.
Tensor to_pixels(const std::vector<Image>& images, int64_t height, int64_t width);

// [N, 1, height, width] float32: how light pictures are, in [0, 1].
Tensor to_grey(const std::vector<Image>& images, int64_t height, int64_t width);

// The same, 1 where a picture is lighter than half, else 0.
Tensor to_mask(const std::vector<Image>& images, int64_t height, int64_t width);

}  // namespace lora
