#include "pipelines/image_processor.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "io/png.h"
#include "io/public_call.h"

namespace lora {

namespace {

// Rounded x / 255, for whole numbers.
Tensor divided_by_255(const Tensor& x) { return at::div(x + 127, 255, "floor"); }

// Halves are rounded up, as in Pillow.
Tensor rounded(const Tensor& x) { return (x + 0.5).floor().clamp(0, 255).to(at::kByte); }

// One more row or column at a border, given the last two. It is what Pillow's bicubic filter makes of them outside.
Tensor continued(const Tensor& last, const Tensor& before) {
  return rounded(1.125 * last.to(at::kFloat) - 0.125 * before.to(at::kFloat));
}

// Resizes one direction. libtorch's own filter for bytes rounds more often than Pillow's.
Tensor resize_once(const Tensor& bytes, int64_t height, int64_t width) {
  if (bytes.size(2) == height && bytes.size(3) == width) return bytes;
  auto resized = at::_upsample_lanczos2d_aa(bytes.to(at::kFloat), {height, width}, /*align_corners=*/false);
  return rounded(resized);
}

// Puts a picture into the middle of `size` pixels of one dimension.
Tensor filled(const Tensor& bytes, int64_t dim, int64_t size) {
  const auto own = bytes.size(dim), before = size / 2 - own / 2, after = size - own - before;
  auto at = [&](int64_t i) { return bytes.narrow(dim, std::clamp<int64_t>(i, 0, own - 1), 1); };
  auto border = [&](int64_t last, int64_t next, int64_t count) {
    auto shape = bytes.sizes().vec();
    shape[size_t(dim)] = count;
    return continued(at(last), at(next)).expand(shape);
  };
  return at::cat({border(0, 1, before), bytes, border(own - 1, own - 2, after)}, dim);
}

// Cuts `size` pixels out of the middle of one dimension.
Tensor cut(const Tensor& bytes, int64_t dim, int64_t size) {
  return bytes.narrow(dim, bytes.size(dim) / 2 - size / 2, size);
}

// The moving average of Pillow's box blur along the last dimension. `radius` pixels on each side count fully, and one
// more on each side in part. Weights are fractions of 2^24. Beyond a border, its pixel repeats.
Tensor box_blur(const Tensor& x, int64_t radius, int64_t weight, int64_t edge_weight) {
  const auto size = x.size(-1);
  auto places = at::arange(-radius - 1, size + radius + 1).clamp(0, size - 1);
  auto wide = x.index_select(-1, places);
  auto sums = at::constant_pad_nd(wide.cumsum(-1), {1, 0});
  auto inner = sums.narrow(-1, 2 * radius + 2, size) - sums.narrow(-1, 1, size);
  auto edges = wide.narrow(-1, 0, size) + wide.narrow(-1, 2 * radius + 2, size);
  return at::bitwise_right_shift(inner * weight + edges * edge_weight + (1 << 23), 24);
}

// The first and the last row, or column, of a mask that is not black.
std::pair<int64_t, int64_t> extent(const Tensor& mask, int64_t other_dim) {
  auto places = mask.ne(0).any(other_dim).nonzero();
  return {places[0].item<int64_t>(), places[-1].item<int64_t>() + 1};
}

// Makes [first, last) longer on both sides, inside [0, size).
void widen(int64_t& first, int64_t& last, double wanted, int64_t size) {
  const auto more = int64_t(wanted - double(last - first));
  first -= more / 2;
  last += more - more / 2;
  const auto back = std::max<int64_t>(0, last - size);
  first -= back, last -= back;
  const auto forth = std::max<int64_t>(0, -first);
  first += forth, last = std::min(last + forth, size);
}

}  // namespace

Tensor to_bytes(const Image& image, const char* what) {
  check_pixels(image, what);
  auto bytes = at::tensor(at::ArrayRef<uint8_t>(image.pixels), at::kByte);
  return bytes.view({1, image.height, image.width, 3}).permute({0, 3, 1, 2}).contiguous();
}

Image to_image(const Tensor& bytes) {
  auto rows = bytes[0].permute({1, 2, 0}).contiguous();
  const auto* first = rows.const_data_ptr<uint8_t>();
  return {int(rows.size(1)), int(rows.size(0)), {first, first + rows.numel()}, {}};
}

Tensor resize(const Tensor& bytes, int64_t height, int64_t width) {
  // Each direction rounds, so that their order matters. Pillow resizes the height first where that loses more than
  // twice as many rows as columns.
  const auto fewer_rows = bytes.size(2) - height, fewer_columns = bytes.size(3) - width;
  const bool height_first = fewer_rows > std::max<int64_t>(0, 2 * fewer_columns);
  const auto half = height_first ? resize_once(bytes, height, bytes.size(3)) : resize_once(bytes, bytes.size(2), width);
  return resize_once(half, height, width);
}

Tensor resize_and_fill(const Tensor& bytes, int64_t height, int64_t width) {
  const auto own_height = bytes.size(2), own_width = bytes.size(3);
  const bool is_taller = own_width * height < width * own_height;
  const auto inner_width = is_taller ? std::max<int64_t>(1, own_width * height / own_height) : width;
  const auto inner_height = is_taller ? height : std::max<int64_t>(1, own_height * width / own_width);
  return filled(filled(resize(bytes, inner_height, inner_width), 2, height), 3, width);
}

Tensor resize_and_crop(const Tensor& bytes, int64_t height, int64_t width) {
  const auto own_height = bytes.size(2), own_width = bytes.size(3);
  const bool is_taller = own_width * height < width * own_height;
  const auto outer_width = is_taller ? width : own_width * height / own_height;
  const auto outer_height = is_taller ? own_height * width / own_width : height;
  return cut(cut(resize(bytes, outer_height, outer_width), 2, height), 3, width);
}

// Three box blurs (Gwosdek and others, "Theoretical foundations of Gaussian convolution by extended box filtering").
Tensor blur(const Tensor& bytes, int factor) {
  if (factor == 0) return bytes;
  constexpr int kPasses = 3;
  const float variance = float(factor * factor) / kPasses;
  const float whole = std::floor((std::sqrt(12 * variance + 1) - 1) / 2);
  const float part =
      (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) * (whole + 1)));
  const auto radius = int64_t(whole + part);
  const auto weight = int64_t((1 << 24) / (2 * (whole + part) + 1));
  const auto edge_weight = ((1 << 24) - (2 * radius + 1) * weight) / 2;
  auto x = bytes.to(at::kLong);
  for (int direction = 0; direction < 2; ++direction, x = x.transpose(2, 3))
    for (int pass = 0; pass < kPasses; ++pass) x = box_blur(x, radius, weight, edge_weight);
  return x.to(at::kByte);
}

// The 16-bit weights of ITU-R 601-2 luma, rounded, as in Pillow's conversion to grey.
Tensor grey(const Tensor& bytes) {
  auto rgb = bytes.to(at::kInt);
  auto sum = rgb.select(1, 0) * 19595 + rgb.select(1, 1) * 38470 + rgb.select(1, 2) * 7471;
  return at::bitwise_right_shift(sum + 0x8000, 16).to(at::kByte).unsqueeze(1);
}

// Pillow multiplies the original by its share, rounds, and divides again when it mixes it in.
Tensor apply_overlay(const Tensor& mask, const Tensor& original, const Tensor& drawn) {
  auto share = 255 - mask.to(at::kInt);
  auto faded = divided_by_255(original.to(at::kInt) * share);
  auto restored = at::div(faded * 255, share.clamp_min(1), "floor").clamp_max(255);
  return divided_by_255(restored * share + drawn.to(at::kInt) * (255 - share)).to(at::kByte);
}

Tensor Region::of(const Tensor& t) const { return t.narrow(-2, top, height()).narrow(-1, left, width()); }

Region crop_region(const Tensor& mask, int64_t height, int64_t width, int64_t padding) {
  const auto map = mask[0][0];
  const auto own_height = map.size(0), own_width = map.size(1);
  auto [top, bottom] = extent(map, 1);
  auto [left, right] = extent(map, 0);
  Region region{std::max<int64_t>(left - padding, 0), std::max<int64_t>(top - padding, 0),
                std::min(right + padding, own_width), std::min(bottom + padding, own_height)};
  const double wanted = double(width) / double(height);
  if (double(region.width()) / double(region.height()) > wanted)
    widen(region.top, region.bottom, double(region.width()) / wanted, own_height);
  else
    widen(region.left, region.right, double(region.height()) * wanted, own_width);
  return region;
}

Tensor to_grey(const Image& image) {
  return public_call([&] { return grey(to_bytes(image, "image"))[0][0].to(at::kFloat) / 255; });
}

}  // namespace lora
