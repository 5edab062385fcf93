#pragma once
// An open-addressing hash index into a vector that its user keeps: what std::unordered_map does in several times the
// time, most of it in allocating nodes.
#include <bit>
#include <cstdint>
#include <vector>

namespace lora {

class FlatIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // Room for `most` entries.
  explicit FlatIndex(size_t most) : slots_(std::bit_ceil(2 * most + 2), kNone) {}

  // Where the position of the entry that is equal to the one sought stands, or kNone where it has yet to be put.
  // `equal(position)` compares with the entry there.
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
