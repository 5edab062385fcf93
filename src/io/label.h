#pragma once
// Text as a picture.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace lora {

// Lays out and draws short texts in one size. Pango chooses the fonts: "DejaVu Sans", and others for the characters
// that it does not have. An object serves one thread.
class LabelFont {
 public:
  // `size` is that of the font, in pixels. Throws Error{not_found} where the system has no font.
  explicit LabelFont(int size);
  ~LabelFont();

  // How much room a text takes in at most `lines` lines (at least 1) of at most `width` pixels.
  struct Extent {
    int width, height;
  };
  Extent extent(const std::string& text, int width, int lines) const;

  // The most lines of a text, from 1 to `lines`, that a box has room for.
  int fitting_lines(const std::string& text, int width, int height, int lines) const;

  // The text in the middle of a box, in at most `lines` lines, black on white: height × width bytes, 255 is white. If
  // it needs more lines, the last one ends with "…".
  std::vector<uint8_t> draw(const std::string& text, int width, int height, int lines) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lora
