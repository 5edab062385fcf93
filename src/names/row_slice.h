#pragma once

namespace lora {

// Rows [begin, end) of `of` equal parts of a layer that holds several.
struct RowSlice {
  int begin = 0, end = 1, of = 1;

  bool whole() const { return end - begin == of; }
  int parts() const { return end - begin; }
  bool operator==(const RowSlice&) const = default;
};

}  // namespace lora
