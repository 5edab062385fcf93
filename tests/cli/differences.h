#pragma once
// How much pictures differ.
#include <algorithm>
#include <cstdlib>

#include "lora/image.h"

namespace lora {

// Of all channels of all pixels; 256 for pictures of different sizes.
inline int largest_difference(const Image& a, const Image& b) {
  if (a.width != b.width || a.height != b.height) return 256;
  int largest = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i)
    largest = std::max(largest, std::abs(int(a.pixels[i]) - int(b.pixels[i])));
  return largest;
}

}  // namespace lora
