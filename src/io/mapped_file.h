#pragma once
// Maps a whole file into memory without reading it, and makes tensors that alias it.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "lora/state_dict.h"

namespace lora {

// Two mappings of one file. Tensors alias the private mapping. A read of it shares the page cache with other processes.
// A write to it changes only this process's copy of the page. The read-only mapping always shows the file as it is on
// disk. It costs an address range, and memory only after it is read. It needs no open file descriptor.
//
// No other process may truncate a mapped file: the access to a page past the new end raises SIGBUS. A program that
// replaces a file by a rename, as this library does, is safe.
class MappedFile : public std::enable_shared_from_this<MappedFile> {
 public:
  // Throws Error{not_found} if the file does not exist, Error{bad_file} for a folder, device or pipe, Error{io} if the
  // system refuses.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  size_t size() const { return size_; }
  // The bytes of the private mapping. Empty for an empty file.
  std::string_view bytes() const { return {reinterpret_cast<const char*>(private_), size_}; }

  // A storage over `size` bytes of the private mapping. It keeps the mapping alive.
  c10::Storage storage(size_t offset, size_t size) const;
  // Frees the memory of the private mapping's pages. They show the file again at the next use: earlier writes to them
  // are lost. For a single pass over a large file.
  void release_pages() const;
  // A storage over the same bytes of the read-only mapping. A write to it is a segmentation fault.
  c10::Storage pristine_storage(size_t offset, size_t size) const;

 private:
  explicit MappedFile(std::filesystem::path path);
  c10::Storage share(uint8_t* start, size_t size) const;

  std::filesystem::path path_;
  size_t size_ = 0;
  uint8_t* private_ = nullptr;
  uint8_t* pristine_ = nullptr;
};

// A tensor on `storage`. The caller must check that sizes, strides and offset (in elements) stay within it.
Tensor tensor_on(c10::Storage storage, Dtype dtype, at::IntArrayRef sizes, at::IntArrayRef strides, int64_t offset);

// The file's values of a tensor (or view) that aliases a private mapping: a tensor of the same dtype, sizes and strides
// on the read-only mapping, which it keeps alive. An undefined tensor if `tensor` does not alias a mapping.
Tensor pristine(const Tensor& tensor);

// The files that these tensors alias, each once.
std::vector<std::shared_ptr<const MappedFile>> mapped_files(const StateDict& tensors);

// Frees the memory of pages that are as in their file. The system reads them again at the next use. Pages that this
// process wrote to stay, and so does all memory that is not of a file. Does nothing where the system does not say which
// pages are clean (/proc/self/pagemap).
class CleanPages {
 public:
  CleanPages();
  ~CleanPages();
  CleanPages(const CleanPages&) = delete;
  CleanPages& operator=(const CleanPages&) = delete;

  // Frees the clean pages under a tensor on the CPU. Nothing may write to them meanwhile.
  void release(const Tensor& tensor) const noexcept;

 private:
  int pagemap_;
};

// Makes this process's own copies of all pages under `tensor` in one call. `tensor` must be contiguous. Otherwise the
// first write to each page copies it, which costs several times as much. Does nothing if the system does not have such
// a call, or if the tensor is not on the CPU.
void make_writable(const Tensor& tensor);

}  // namespace lora
