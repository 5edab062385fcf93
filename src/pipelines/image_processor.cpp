#include "pipelines/image_processor.h"

#include <ATen/ATen.h>

#include "io/png.h"
#include "io/public_call.h"

namespace lora {

namespace {

// uint8 [N, 3, height, width].
Tensor resized(const std::vector<Image>& images, int64_t height, int64_t width, const char* what) {
  std::vector<Tensor> all;
  for (const auto& image : images) {
    check_pixels(image, what);
    auto bytes = at::tensor(at::ArrayRef<uint8_t>(image.pixels), at::kByte);
    auto t = bytes.view({1, image.height, image.width, 3}).permute({0, 3, 1, 2}).contiguous();
    if (image.height != height || image.width != width)
      t = at::_upsample_lanczos2d_aa(t, {height, width}, /*align_corners=*/false);
    all.push_back(t);
  }
  return at::cat(all);
}

}  // namespace

Tensor to_pixels(const std::vector<Image>& images, int64_t height, int64_t width) {
  return resized(images, height, width, "image").to(at::kFloat) / 255 * 2 - 1;
}

Tensor to_grey(const std::vector<Image>& images, int64_t height, int64_t width) {
  // The 16-bit weights of ITU-R 601-2 luma, rounded, as in Pillow's conversion to grey.
  auto rgb = resized(images, height, width, "mask_image").to(at::kInt);
  auto grey = at::bitwise_right_shift(
      rgb.select(1, 0) * 19595 + rgb.select(1, 1) * 38470 + rgb.select(1, 2) * 7471 + 0x8000, 16);
  return (grey.to(at::kFloat) / 255).unsqueeze(1);
}

Tensor to_grey(const Image& image) {
  return public_call([&] { return to_grey({image}, image.height, image.width)[0][0]; });
}

Tensor to_mask(const std::vector<Image>& images, int64_t height, int64_t width) {
  return to_grey(images, height, width).ge(0.5).to(at::kFloat);
}

}  // namespace lora
