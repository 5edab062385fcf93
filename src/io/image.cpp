#include "lora/image.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "core/check.h"
#include "io/jpeg.h"
#include "io/json_file.h"
#include "io/mapped_file.h"
#include "io/picture.h"
#include "io/png.h"
#include "io/public_call.h"
#include "io/webp.h"

namespace lora {

void check_pixels(const Image& image, const char* what) {
  bool whole = image.width > 0 && image.height > 0 &&
               image.pixels.size() == static_cast<size_t>(image.width) * static_cast<size_t>(image.height) * 3;
  check(whole, ErrorKind::usage, "{}: {} x {} with {} bytes of pixels; wanted width x height x 3", what, image.width,
        image.height, image.pixels.size());
}

namespace {

using Encoder = std::string (*)(const Image&);

// nullptr for another ending.
Encoder encoder_of(const std::filesystem::path& file) {
  auto ending = file.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (ending == ".png") return encode_png;
  if (ending == ".jpg" || ending == ".jpeg") return encode_jpeg;
  return ending == ".webp" ? encode_webp : nullptr;
}

}  // namespace

bool has_image_ending(const std::filesystem::path& file) {
  return edge([&] { return encoder_of(file) != nullptr; });
}

void Image::save(const std::filesystem::path& file) const {
  edge([&] {
    const auto encode = encoder_of(file);
    check(encode, ErrorKind::usage, "{}: Give a name that ends in .png, .jpg, .jpeg or .webp", file.string());
    write_text(file, encode(*this));
  });
}

std::string Image::png() const {
  return edge([&] { return encode_png(*this); });
}

Image Image::load(const std::filesystem::path& file) {
  return edge([&] {
    auto mapped = MappedFile::open(file);
    return decode_picture(mapped->bytes(), file.string());
  });
}

Image transparency_of(const Image& image) {
  return edge([&] {
    check_pixels(image, "image");
    Image mask{.width = image.width, .height = image.height, .pixels = std::vector<uint8_t>(image.pixels.size())};
    check(image.alpha.empty() || image.alpha.size() * 3 == image.pixels.size(), ErrorKind::usage,
          "image: {} x {} with {} bytes of alpha; wanted width x height", image.width, image.height,
          image.alpha.size());
    for (size_t i = 0; i < image.alpha.size(); ++i)
      std::fill_n(mask.pixels.begin() + static_cast<std::ptrdiff_t>(3 * i), 3, 255 - image.alpha[i]);
    return mask;
  });
}

namespace {

std::vector<Image> pictures_of(const Tensor& batch) {
  check(batch.defined() && batch.dim() == 4 && batch.size(1) == 3 && at::isFloatingType(batch.scalar_type()),
        ErrorKind::usage, "to_images: wanted a float tensor of [images, 3, height, width], got {} of [{}]",
        batch.defined() ? to_string(batch.scalar_type()) : "nothing",
        batch.defined() ? fmt::format("{}", fmt::join(batch.sizes(), ", ")) : "");
  // Computes in float32 on the CPU, as numpy does: round() goes to even at halves.
  auto floats = batch.detach().cpu().to(at::kFloat);
  check(!floats.isnan().any().item<bool>(), ErrorKind::usage,
        "to_images: the batch has NaN, for which there is no pixel");
  auto bytes = floats.clamp(0, 1).mul(255).round().to(at::kByte);
  bytes = bytes.permute({0, 2, 3, 1}).contiguous();

  std::vector<Image> images;
  int64_t size = bytes.size(1) * bytes.size(2) * 3;
  for (int64_t i = 0; i < bytes.size(0); ++i) {
    const auto* first = bytes.const_data_ptr<uint8_t>() + i * size;
    images.push_back({static_cast<int>(bytes.size(2)), static_cast<int>(bytes.size(1)), {first, first + size}, {}});
  }
  return images;
}

}  // namespace

std::vector<Image> to_images(const Tensor& batch) {
  return public_call([&] { return pictures_of(batch); });
}

}  // namespace lora
