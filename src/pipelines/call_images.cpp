#include "pipelines/call_images.h"

#include <ATen/ATen.h>

#include <numeric>

#include "core/check.h"
#include "io/png.h"
#include "pipelines/call_options.h"

namespace lora {

namespace {

constexpr int kLargestBlur = 1000;
constexpr int kHalf = 128;  // of 255: from here on, a pixel of a mask is white

std::vector<Tensor> bytes_of(const OneOrMany<Image>& images, const char* name) {
  std::vector<Tensor> all;
  for (const auto& image : images) all.push_back(to_bytes(image, name));
  return all;
}

Tensor prepared_mask(const Tensor& given, const CallOptions& o) {
  auto inverted = o.invert_mask ? 255 - given : given;
  auto blurred = blur(inverted, o.blur_factor);
  check(
      o.blur_factor == 0 || !grey(inverted).ge(kHalf).any().item<bool>() || grey(blurred).ge(kHalf).any().item<bool>(),
      ErrorKind::usage, "blur_factor is {}, which leaves no white part of mask_image. Lower it", o.blur_factor);
  return blurred;
}

// Repeats the images in turns until there are as many.
void repeat_to(std::vector<Tensor>& images, size_t count) {
  for (size_t i = 0; images.size() < count; ++i) images.push_back(images[i]);
}

// Notes masks that are stretched, and masks without effect.
void note_masks(const CallOptions& o) {
  for (size_t i = 0; i < o.mask_image.size(); ++i) {
    const auto &mask = o.mask_image[i], &image = o.image[i % o.image.size()];
    if (int64_t(mask.width) * image.height != int64_t(mask.height) * image.width)
      note(o, fmt::format("mask_image is {}x{}. It is stretched to the shape of the image, which is {}x{}", mask.width,
                          mask.height, image.width, image.height));
    const auto map = grey(to_bytes(mask, "mask_image"));
    const bool draws = (o.invert_mask ? map.le(255 - kHalf) : map.ge(kHalf)).any().item<bool>();
    if (!draws && !o.padding_mask_crop)
      note(o, fmt::format("mask_image is {} everywhere, so that no part of the image is drawn again",
                          o.invert_mask ? "white" : "black"));
  }
}

}  // namespace

void check_images(const CallOptions& o) {
  for (const auto& image : o.image) check_pixels(image, "image");
  for (const auto& image : o.mask_image) check_pixels(image, "mask_image");
  check(o.mask_image.empty() || !o.image.empty(), ErrorKind::usage, "mask_image needs an image. Give one");
  check(!o.strength || !o.image.empty() || o.denoising_start, ErrorKind::usage,
        "strength needs an image to start from. Give one");
  const auto strength = o.strength.value_or(1);
  check(strength > 0 && strength <= 1, ErrorKind::usage, "strength is {}. It must be above 0 and at most 1", strength);
  const std::pair<const char*, bool> of_masks[] = {{"padding_mask_crop", o.padding_mask_crop.has_value()},
                                                   {"invert_mask", o.invert_mask},
                                                   {"blur_factor", o.blur_factor != 0},
                                                   {"apply_overlay", o.apply_overlay}};
  for (auto [name, given] : of_masks)
    check(!given || !o.mask_image.empty(), ErrorKind::usage, "{} needs a mask_image. Give one", name);
  check(o.padding_mask_crop.value_or(0) >= 0, ErrorKind::usage, "padding_mask_crop is {}. It must be at least 0",
        o.padding_mask_crop.value_or(0));
  check(o.blur_factor >= 0 && o.blur_factor <= kLargestBlur, ErrorKind::usage, "blur_factor is {}. It must be 0 to {}",
        o.blur_factor, kLargestBlur);
  note_masks(o);
}

CallImages::CallImages(const CallOptions& options, int64_t height, int64_t width)
    : options_(options),
      height_(height),
      width_(width),
      images_(bytes_of(options.image, "image")),
      masks_(bytes_of(options.mask_image, "mask_image")) {
  for (auto& mask : masks_) mask = prepared_mask(mask, options);
  if (options.padding_mask_crop) crop();
}

// A mask of another size is resized to that of its image.
void CallImages::crop() {
  const auto count = std::lcm(images_.size(), masks_.size());
  repeat_to(images_, count);
  repeat_to(masks_, count);
  for (size_t i = 0; i < count; ++i) {
    masks_[i] = resize(masks_[i], images_[i].size(2), images_[i].size(3));
    const auto map = grey(masks_[i]);
    check(map.any().item<bool>(), ErrorKind::usage,
          "mask_image is black everywhere, so that padding_mask_crop has no part to draw. Give another mask");
    regions_.push_back(crop_region(map, height_, width_, *options_.padding_mask_crop));
  }
}

Tensor CallImages::fitted(const std::vector<Tensor>& bytes, int64_t height, int64_t width) const {
  std::vector<Tensor> all;
  for (size_t i = 0; i < bytes.size(); ++i)
    all.push_back(regions_.empty() ? resize(bytes[i], height, width)
                                   : resize_and_fill(regions_[i].of(bytes[i]), height, width));
  return at::cat(all);
}

Tensor CallImages::pixels() const { return fitted(images_, height_, width_).to(at::kFloat) / 255; }

Tensor CallImages::mask(int64_t height, int64_t width) const {
  return grey(fitted(masks_, height, width)).ge(kHalf).to(at::kFloat);
}

std::vector<Image> CallImages::with_overlay(std::vector<Image> drawn) const {
  if (!options_.apply_overlay && regions_.empty()) return drawn;
  for (size_t i = 0; i < drawn.size(); ++i) {
    auto picture = to_bytes(drawn[i], "image");
    auto original = images_[i % images_.size()], mask = masks_[i % masks_.size()];
    if (regions_.empty()) {
      original = resize(original, height_, width_);
      mask = resize(mask, height_, width_);
    } else {
      const auto& region = regions_[i % regions_.size()];
      auto whole = at::zeros_like(original);
      region.of(whole).copy_(resize_and_crop(picture, region.height(), region.width()));
      picture = whole;
    }
    drawn[i] = to_image(apply_overlay(grey(mask), original, picture));
  }
  return drawn;
}

}  // namespace lora
