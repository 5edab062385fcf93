#pragma once
// What the picture formats have in common.
#include <cstdint>
#include <string>
#include <string_view>

#include "lora/image.h"

namespace lora {

// The most pixels of a picture that is read.
inline constexpr uint64_t kMostPixels = uint64_t{1} << 28;
// Throws Error{unsupported} for more. `where` is the file's name for messages.
void check_size(uint64_t width, uint64_t height, const std::string& where);

// The picture of 8-bit RGBA pixels, composed over white as Pillow's paste() does. If all pixels are opaque, it has no
// alpha.
Image over_white(int width, int height, const uint8_t* rgba);

// A picture as an EXIF orientation of 1 to 8 says that it must be shown.
Image turned(Image image, int orientation);

// Reads PNG, JPEG or WebP, which the first bytes tell. Throws Error{bad_file, unsupported}.
Image decode_picture(std::string_view bytes, const std::string& where);

}  // namespace lora
