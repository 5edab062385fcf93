#pragma once
// The place of a layer's input in the image. The block that calls a layer gives it. The size of the input is not
// enough, because a text may have as many tokens as an image.
#include "lora/tensor.h"

namespace lora {

// A map of height × width places, row by row. 0 × 0 for inputs that are not part of the image.
struct Place {
  int64_t height = 0, width = 0;

  bool in_picture() const { return height > 0; }
};

inline constexpr Place kText{};     // tokens of a prompt
inline constexpr Place kNowhere{};  // time, sizes, pooled prompts

// An input and its place.
struct Placed {
  Placed(Tensor input, Place at = kNowhere) : x(std::move(input)), place(at) {}

  Tensor x;
  Place place;
};

}  // namespace lora
