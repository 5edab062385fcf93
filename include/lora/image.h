#pragma once
// An 8-bit RGB picture and its PNG file.
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// Threads: a value; const calls may run on several threads at once.
struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;              // height × width × 3, row by row
  std::map<std::string, std::string> text;  // PNG text entries, UTF-8 (tEXt/iTXt)

  // Atomic: a temporary sibling, then a rename. Throws Error{io}.
  void save(const std::filesystem::path& file) const;
  // 8-bit grey, palette, RGB and RGBA files become RGB. Throws Error{not_found, bad_file}.
  static Image load(const std::filesystem::path& file);
};

// [N, 3, H, W] in [0, 1], any float dtype and device, to N pictures: round(255·x), as diffusers' VaeImageProcessor.
std::vector<Image> to_images(const Tensor& batch);

}  // namespace lora
