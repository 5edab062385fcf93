#pragma once
// Where a layer's input stands in the picture. The block that calls a layer says it: sizes cannot tell, for a text may
// have as many tokens as a picture.
#include "lora/tensor.h"

namespace lora {

// A map of height × width places, row by row; 0 × 0 for inputs without a place in the picture.
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
