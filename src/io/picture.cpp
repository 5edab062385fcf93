#include "io/picture.h"

#include <utility>

#include "core/check.h"
#include "io/jpeg.h"
#include "io/png.h"
#include "io/webp.h"

namespace lora {

void check_size(uint64_t width, uint64_t height, const std::string& where) {
  check(width * height <= kMostPixels, ErrorKind::unsupported, "{}: has {} x {} pixels; at most {} are read", where,
        width, height, kMostPixels);
}

Image over_white(int width, int height, const uint8_t* rgba) {
  const auto count = static_cast<size_t>(width) * static_cast<size_t>(height);
  Image image{.width = width, .height = height, .pixels = std::vector<uint8_t>(count * 3)};
  image.alpha.resize(count);
  bool opaque = true;
  for (size_t i = 0; i < count; ++i) {
    const unsigned alpha = rgba[4 * i + 3];
    for (size_t c = 0; c < 3; ++c) {
      const unsigned sum = rgba[4 * i + c] * alpha + 255 * (255 - alpha) + 128;
      image.pixels[3 * i + c] = static_cast<uint8_t>(((sum >> 8) + sum) >> 8);  // sum / 255, rounded
    }
    image.alpha[i] = static_cast<uint8_t>(alpha);
    opaque = opaque && alpha == 255;
  }
  if (opaque) image.alpha.clear();
  return image;
}

namespace {

// Mirrors or transposes one plane of `channels` bytes a pixel. The result has the size of the whole turned picture.
std::vector<uint8_t> turned(const std::vector<uint8_t>& plane, size_t width, size_t height, size_t channels,
                            int orientation) {
  const bool transposed = orientation >= 5;
  const bool right_to_left = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool upwards = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  std::vector<uint8_t> result;
  result.reserve(plane.size());
  const auto new_width = transposed ? height : width, new_height = transposed ? width : height;
  for (size_t y = 0; y < new_height; ++y)
    for (size_t x = 0; x < new_width; ++x) {
      auto old_x = transposed ? y : x, old_y = transposed ? x : y;
      if (right_to_left) old_x = width - 1 - old_x;
      if (upwards) old_y = height - 1 - old_y;
      const auto* first = plane.data() + (old_y * width + old_x) * channels;
      result.insert(result.end(), first, first + channels);
    }
  return result;
}

}  // namespace

Image turned(Image image, int orientation) {
  if (orientation == 1) return image;
  const auto width = static_cast<size_t>(image.width), height = static_cast<size_t>(image.height);
  image.pixels = turned(image.pixels, width, height, 3, orientation);
  if (!image.alpha.empty()) image.alpha = turned(image.alpha, width, height, 1, orientation);
  if (orientation >= 5) std::swap(image.width, image.height);
  return image;
}

Image decode_picture(std::string_view bytes, const std::string& where) {
  if (is_png(bytes)) return decode_png(bytes, where);
  if (is_jpeg(bytes)) return decode_jpeg(bytes, where);
  check(is_webp(bytes), ErrorKind::bad_file, "{}: is not a PNG, JPEG or WebP file", where);
  return decode_webp(bytes, where);
}

}  // namespace lora
