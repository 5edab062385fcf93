#pragma once
// An 8-bit RGB picture, and its file: PNG, JPEG or WebP.
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
  std::map<std::string, std::string> text;  // what the file says, UTF-8: see save() and load()
  // How opaque each pixel of a loaded file was: height × width, 0 is transparent and 255 is opaque. Empty: all of them
  // are opaque. `pixels` are composed over white. save() does not write the alpha.
  std::vector<uint8_t> alpha;

  // Writes a file atomically: writes a temporary file beside it, then renames that. The ending says the format, in
  // small letters or capitals:
  // - .png
  // - .jpg, .jpeg: quality 95, with whole colour resolution
  // - .webp: without loss
  // PNG has the texts as tEXt and iTXt. It does not allow all texts: bytes that are not UTF-8, and control characters
  // other than line breaks and tabs, are written as \xe9 and \x1b. JPEG and WebP have the texts in their EXIF, up to 64
  // KiB in all. The text "parameters" is the UserComment, where A1111 has it. The others are a JSON object in the
  // ImageDescription.
  // Throws Error{io}, and Error{usage} for another ending, or if the pixels or texts do not fit into the file.
  void save(const std::filesystem::path& file) const;
  // The bytes of the PNG file that save() writes. Throws what save() throws.
  std::string png() const;
  // Reads PNG, JPEG and WebP. The content says the format, not the ending. Converts grey, palette, CMYK and 16 bits to
  // RGB. Turns the picture as its EXIF says. The texts are those that save() writes, those of A1111, and ComfyUI's
  // "prompt" and "workflow". Throws Error{not_found, io}, Error{bad_file}, and Error{unsupported} for animations and
  // for more than 2^28 pixels.
  static Image load(const std::filesystem::path& file);
};

// Whether save() knows the ending.
bool has_image_ending(const std::filesystem::path& file);

// A mask that is white where the picture is transparent: 255 minus its alpha. Black for a picture without alpha. Throws
// Error{usage} where the sizes of alpha and picture differ.
Image transparency_of(const Image& image);

// Converts a batch of shape [N, 3, H, W] with values in [0, 1] to N images. A pixel is round(255·x), as in diffusers'
// VaeImageProcessor. The batch may have any float dtype and be on any device. Throws Error{usage} for other tensors,
// and for NaN, for which there is no pixel.
std::vector<Image> to_images(const Tensor& batch);

// How light a picture is: float32 [height, width] from 0 (black) to 1 (white), as Pillow converts to grey. A
// CallAdapter's mask takes such a tensor. Throws Error{usage} where the number of pixels is not width × height.
Tensor to_grey(const Image& image);

}  // namespace lora
