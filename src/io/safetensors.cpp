#include "io/safetensors.h"

#include <ATen/ATen.h>
#include <c10/util/strides.h>

#include <cstring>

#include "core/check.h"

namespace lora {

namespace {

Tensor entry_tensor(const MappedFile& file, size_t start, const SafetensorsEntry& entry) {
  size_t size = entry.end - entry.begin;
  if (start % c10::elementSize(entry.dtype) == 0)
    return tensor_on(file.storage(start, size), entry.dtype, entry.shape, c10::contiguous_strides(entry.shape), 0);
  Tensor copy = at::empty(entry.shape, entry.dtype);
  if (size > 0) std::memcpy(copy.data_ptr(), file.bytes().data() + start, size);
  return copy;
}

}  // namespace

StateDict read_safetensors(const MappedFile& file, Content content) {
  auto header = parse_safetensors_header(file.bytes(), file.path().string());
  StateDict tensors;
  for (const auto& entry : header.entries)
    tensors.set(entry.name, content == Content::sizes
                                ? at::empty(entry.shape, at::TensorOptions(entry.dtype).device(at::kMeta))
                                : entry_tensor(file, header.data_start + entry.begin, entry));
  tensors.metadata = std::move(header.metadata);
  return tensors;
}

}  // namespace lora
