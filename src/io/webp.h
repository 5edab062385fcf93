#pragma once
// Encodes and decodes WebP in memory.
#include <string>
#include <string_view>

#include "lora/image.h"

namespace lora {

bool is_webp(std::string_view bytes);

// Composes transparent pixels over white, and turns the picture as its EXIF says. `where` is the file's name for
// messages. Throws Error{bad_file}, and Error{unsupported} for an animation.
Image decode_webp(std::string_view bytes, const std::string& where);

// Without loss. The texts are in the EXIF (io/exif.h). Throws Error{usage} if the image has no pixels, is too large for
// WebP, or has too long texts.
std::string encode_webp(const Image& image);

}  // namespace lora
