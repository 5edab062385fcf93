#pragma once
// What both users of libpng share. libpng reports errors by longjmp, which must not skip destructors: a callback that
// raises an error must have no objects with destructors left.
#include <png.h>

#include <csetjmp>
#include <cstring>

namespace lora {

struct PngState {
  png_structp png = nullptr;
  png_infop info = nullptr;
  char error[128] = "";  // libpng's message
};

// The error callback of a libpng structure whose error pointer is a PngState. Keeps the message, then jumps.
[[noreturn]] inline void on_png_error(png_structp png, png_const_charp message) {
  auto& error = static_cast<PngState*>(png_get_error_ptr(png))->error;
  std::strncpy(error, message, sizeof error - 1);
  png_longjmp(png, 1);
}

inline void ignore_png_warning(png_structp, png_const_charp) {}

}  // namespace lora
