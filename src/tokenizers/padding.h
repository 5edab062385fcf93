#pragma once
// Brings the ids of a text to a fixed length: padding="max_length", truncation=True in transformers.
#include <cstdint>
#include <vector>

namespace lora {

// Cuts `ids` to `length` ids, the last of them `eos`, or appends `pad` up to that length.
inline std::vector<int64_t> cut_or_padded(std::vector<int64_t> ids, int64_t length, int64_t eos, int64_t pad) {
  auto size = static_cast<size_t>(length);
  if (ids.size() > size) ids[size - 1] = eos;
  ids.resize(size, pad);
  return ids;
}

// The ids that cut_or_padded() cuts off, without the end token.
inline std::vector<int64_t> cut_off(const std::vector<int64_t>& ids, int64_t length) {
  if (static_cast<int64_t>(ids.size()) <= length) return {};
  return {ids.begin() + length - 1, ids.end() - 1};
}

}  // namespace lora
