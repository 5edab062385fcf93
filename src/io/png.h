#pragma once
// Encodes and decodes PNG in memory.
#include <string>
#include <string_view>

#include "lora/image.h"

namespace lora {

bool is_png(std::string_view bytes);

// Throws Error{usage} unless the number of pixels fits the image's size. `what` names the image in the message.
void check_pixels(const Image& image, const char* what);

// Writes text that is Latin-1 into tEXt chunks, other text into iTXt chunks. What PNG does not allow in a text becomes
// an escape (Image::save). Throws Error{usage} if the image has no pixels, or has a keyword that PNG cannot hold.
std::string encode_png(const Image& image);

// `where` is the file's name for messages. Composes transparent pixels over white, and turns the picture as its EXIF
// says. Rounds 16-bit samples to 8 bits. Throws Error{bad_file, unsupported}.
Image decode_png(std::string_view bytes, const std::string& where);

}  // namespace lora
