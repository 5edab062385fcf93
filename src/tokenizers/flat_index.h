#pragma once
// An open-addressing hash index into a vector of its user. Several times faster than std::unordered_map, which
// allocates a node for each entry.
#include <bit>
#include <cstdint>
#include <vector>

namespace lora {

class FlatIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // Room for `most` entries.
  explicit FlatIndex(size_t most) : slots_(std::bit_ceil(2 * most + 2), kNone) {}

  // The slot of an entry. It holds the entry's position in the vector, or kNone if the index does not have the entry:
  // then the caller writes the position. `equal(position)` returns whether the entry at that position is the wanted
  // one.
  template <class Equal>
  uint32_t& slot(uint64_t hash, Equal equal) {
    return slots_[probe(hash, equal)];
  }
  template <class Equal>
  uint32_t find(uint64_t hash, Equal equal) const {
    return slots_[probe(hash, equal)];
  }

 private:
  template <class Equal>
  size_t probe(uint64_t hash, Equal equal) const {
    size_t mask = slots_.size() - 1;
    size_t at = hash & mask;
    while (slots_[at] != kNone && !equal(slots_[at])) at = (at + 1) & mask;
    return at;
  }

  std::vector<uint32_t> slots_;
};

}  // namespace lora
