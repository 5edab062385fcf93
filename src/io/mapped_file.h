#pragma once
// A whole file in memory without reading it, and tensors that alias it.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "lora/state_dict.h"

namespace lora {

// Two mappings of one file. The private one is what tensors alias: reading it shares the page cache with every other
// process, writing to it changes this process's copy of the page alone. The read-only one always shows the file as it
// is on disk; it costs an address range and no memory until it is read (and, unlike a mapping made on demand, no open
// file descriptor in the meantime).
//
// A file that another process truncates while it is mapped cannot be defended against: touching a page past its new end
// raises SIGBUS. Programs that replace files by a rename, as this library does, are safe.
class MappedFile : public std::enable_shared_from_this<MappedFile> {
 public:
  // Throws Error{not_found} where there is no such file, Error{bad_file} for a folder or device, Error{io} where the
  // system refuses.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  size_t size() const { return size_; }
  // Of the private mapping. Empty for an empty file.
  std::string_view bytes() const { return {reinterpret_cast<const char*>(private_), size_}; }

  // Storage over `size` bytes of the private mapping, which lives as long as the storage does.
  c10::Storage storage(size_t offset, size_t size) const;
  // Gives back the memory of the pages that were read; they are the file's again when next used, whatever was written
  // to them. For one pass over a file that is larger than it should take of memory.
  void release_pages() const;
  // The same bytes of the read-only mapping. Writing to it is a segmentation fault.
  c10::Storage pristine_storage(size_t offset, size_t size) const;

 private:
  explicit MappedFile(std::filesystem::path path);
  c10::Storage share(uint8_t* start, size_t size) const;

  std::filesystem::path path_;
  size_t size_ = 0;
  uint8_t* private_ = nullptr;
  uint8_t* pristine_ = nullptr;
};

// A tensor on `storage`. The caller has checked that sizes, strides and offset (in elements) stay within it.
Tensor tensor_on(c10::Storage storage, Dtype dtype, at::IntArrayRef sizes, at::IntArrayRef strides, int64_t offset);

// What the file holds where `tensor` (or a view of it) aliases a private mapping: a tensor of the same dtype, sizes and
// strides on the read-only mapping, which it keeps alive. Undefined where `tensor` aliases no mapping.
Tensor pristine(const Tensor& tensor);

// The files that these tensors alias, each once.
std::vector<std::shared_ptr<const MappedFile>> mapped_files(const StateDict& tensors);

// Gives this process its own copies of the pages under `tensor`, contiguous and on the CPU, all in one call: what its
// first writes would otherwise do one page at a time, at several times the cost. A hint: where the system has no such
// call, those writes still do it.
void make_writable(const Tensor& tensor);

}  // namespace lora
