#pragma once
// PNG in memory.
#include <string>
#include <string_view>

#include "lora/image.h"

namespace lora {

// Throws Error{usage}, where `what` names the picture, unless there are as many pixels as its size says.
void check_pixels(const Image& image, const char* what);

// Text goes into tEXt chunks where it is Latin-1, else into iTXt. Throws Error{usage} for a picture without pixels or
// with a keyword or text that PNG cannot hold.
std::string encode_png(const Image& image);

// `where` is the file's name for messages. Transparency is dropped, not blended; 16-bit samples are rounded to 8.
// Throws Error{bad_file, unsupported}.
Image decode_png(std::string_view bytes, const std::string& where);

}  // namespace lora
