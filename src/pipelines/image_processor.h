#pragma once
// Pictures as tensors, as diffusers' VaeImageProcessor and Pillow have them. Images are uint8 [N, 3, height, width].
#include "lora/image.h"
#include "lora/tensor.h"

namespace lora {

// Throws Error{usage} unless the number of pixels fits the image's size. `what` names the image in the message.
Tensor to_bytes(const Image& image, const char* what);
Image to_image(const Tensor& bytes);

// By Lanczos.
Tensor resize(const Tensor& bytes, int64_t height, int64_t width);
// Keep the shape of what is shown. The first shows all of it, and continues it at two of its borders. The second cuts
// off what does not fit.
Tensor resize_and_fill(const Tensor& bytes, int64_t height, int64_t width);
Tensor resize_and_crop(const Tensor& bytes, int64_t height, int64_t width);

// A Gaussian blur with the standard deviation `factor`, in pixels.
Tensor blur(const Tensor& bytes, int factor);

// uint8 [N, 1, height, width].
Tensor grey(const Tensor& bytes);

// `drawn` with the pixels of `original` where the mask is black, and a mixture where it is grey. `mask` is grey().
Tensor apply_overlay(const Tensor& mask, const Tensor& original, const Tensor& drawn);

// A rectangle of pixels. `right` and `bottom` are behind the last one.
struct Region {
  int64_t left, top, right, bottom;

  int64_t width() const { return right - left; }
  int64_t height() const { return bottom - top; }
  // The rectangle of a tensor [..., height, width], which has the same memory.
  Tensor of(const Tensor& t) const;
};

// The smallest region that holds all of a mask (grey() of one image) that is not black, with `padding` more pixels on
// each side. It is made larger, inside the picture, until it has the shape of a picture of height × width. The mask
// must not be black everywhere.
Region crop_region(const Tensor& mask, int64_t height, int64_t width, int64_t padding);

}  // namespace lora
