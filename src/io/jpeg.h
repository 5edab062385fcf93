#pragma once
// Encodes and decodes JPEG in memory.
#include <string>
#include <string_view>

#include "lora/image.h"

namespace lora {

bool is_jpeg(std::string_view bytes);

// Converts grey, YCbCr, RGB and CMYK to RGB as Pillow does, and turns the picture as its EXIF says. `where` is the
// file's name for messages. Throws Error{bad_file, unsupported}.
Image decode_jpeg(std::string_view bytes, const std::string& where);

// Quality 95, with whole colour resolution. The texts are in the EXIF (io/exif.h). Throws Error{usage} if the image has
// no pixels, is too large for JPEG, or has too long texts.
std::string encode_jpeg(const Image& image);

}  // namespace lora
