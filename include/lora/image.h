#pragma once
// An 8-bit RGB picture and its PNG file.
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// Threads: several threads may make const calls at the same time.
struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;              // height × width × 3, row by row
  std::map<std::string, std::string> text;  // PNG text entries, UTF-8 (tEXt/iTXt)

  // Writes a PNG file atomically: writes a temporary file beside it, then renames that. PNG does not allow all texts:
  // bytes that are not UTF-8, and control characters other than line breaks and tabs, are written as \xe9 and \x1b.
  // Throws Error{io}, and Error{usage} if the pixels or a keyword do not fit into a PNG file.
  void save(const std::filesystem::path& file) const;
  // Converts grey, palette, RGB and RGBA files to RGB; drops transparency. Throws Error{not_found, bad_file,
  // unsupported, io}.
  static Image load(const std::filesystem::path& file);
};

// Converts a batch of shape [N, 3, H, W] with values in [0, 1] to N images. A pixel is round(255·x), as in diffusers'
// VaeImageProcessor. The batch may have any float dtype and be on any device. Throws Error{usage} for other tensors,
// and for NaN, for which there is no pixel.
std::vector<Image> to_images(const Tensor& batch);

// How light a picture is: float32 [height, width] from 0 (black) to 1 (white), as Pillow converts to grey. A
// CallAdapter's mask takes such a tensor. Throws Error{usage} where the number of pixels is not width × height.
Tensor to_grey(const Image& image);

}  // namespace lora
