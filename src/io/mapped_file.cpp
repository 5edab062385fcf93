#include "io/mapped_file.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <mutex>
#include <system_error>

#include "core/check.h"

namespace lora {

namespace {

// Every live private mapping by its first address. Never destroyed: static tensors may live longer.
struct Registry {
  struct Row {
    size_t size;
    std::weak_ptr<const MappedFile> file;
  };
  std::mutex mutex;
  std::map<const uint8_t*, Row> by_start;
};

Registry& registry() {
  static auto* instance = new Registry;
  return *instance;
}

std::shared_ptr<const MappedFile> mapping_at(const uint8_t* address) {
  std::lock_guard lock(registry().mutex);
  auto next = registry().by_start.upper_bound(address);
  if (next == registry().by_start.begin()) return nullptr;
  const auto& [start, row] = *std::prev(next);
  // Does not lock a file that does not hold the address. To drop its last owner here would wait for this mutex.
  return static_cast<size_t>(address - start) < row.size ? row.file.lock() : nullptr;
}

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  std::shared_ptr<const MappedFile> file(new MappedFile(path));
  if (file->private_) {
    std::lock_guard lock(registry().mutex);
    registry().by_start[file->private_] = {file->size_, file};
  }
  return file;
}

MappedFile::MappedFile(std::filesystem::path path) : path_(std::move(path)) {
  auto reason = [] { return std::generic_category().message(errno); };
  // O_NONBLOCK: to open a pipe must not wait for its writer.
  Descriptor file{::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  check(file.fd >= 0 || (errno != ENOENT && errno != ENOTDIR), ErrorKind::not_found, "{}: no such file",
        path_.string());
  check(file.fd >= 0, ErrorKind::io, "{}: cannot be opened: {}", path_.string(), reason());
  struct stat info {};
  check(::fstat(file.fd, &info) == 0, ErrorKind::io, "{}: cannot be read: {}", path_.string(), reason());
  check(!S_ISDIR(info.st_mode), ErrorKind::bad_file, "{}: is a folder; name a file in it", path_.string());
  check(S_ISREG(info.st_mode), ErrorKind::bad_file, "{}: is a device or pipe; wanted a file", path_.string());
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;

  // NORESERVE: only written pages cost memory. So a program can open a model that is larger than the memory.
  void* writable = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.fd, 0);
  check(writable != MAP_FAILED, ErrorKind::io, "{}: cannot be mapped: {}", path_.string(), reason());
  // Not MAP_SHARED: some network file systems refuse it. The pages are the same.
  void* readable = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (readable == MAP_FAILED) {
    int error = errno;
    ::munmap(writable, size_);
    fail(ErrorKind::io, "{}: cannot be mapped: {}", path_.string(), std::generic_category().message(error));
  }
  private_ = static_cast<uint8_t*>(writable);
  pristine_ = static_cast<uint8_t*>(readable);
}

MappedFile::~MappedFile() {
  if (!private_) return;
  {
    std::lock_guard lock(registry().mutex);
    registry().by_start.erase(private_);
  }
  ::munmap(private_, size_);
  ::munmap(pristine_, size_);
}

c10::Storage MappedFile::storage(size_t offset, size_t size) const {
  // An empty tensor at the end of the file must not point past the mapping, where another may begin.
  return share(private_ + (size > 0 ? offset : 0), size);
}

c10::Storage MappedFile::pristine_storage(size_t offset, size_t size) const {
  return share(pristine_ + (size > 0 ? offset : 0), size);
}

c10::Storage MappedFile::share(uint8_t* start, size_t size) const {
  using Owner = std::shared_ptr<const MappedFile>;
  c10::DataPtr data(
      start, new Owner(shared_from_this()), [](void* owner) { delete static_cast<Owner*>(owner); },
      c10::Device(c10::kCPU));
  return c10::Storage(c10::Storage::use_byte_size_t(), size, std::move(data), nullptr, false);
}

void MappedFile::release_pages() const {
  if (size_ > 0) ::madvise(private_, size_, MADV_DONTNEED);
}

std::vector<std::shared_ptr<const MappedFile>> mapped_files(const StateDict& tensors) {
  std::vector<std::shared_ptr<const MappedFile>> files;
  for (const auto& [name, tensor] : tensors)
    if (auto file = tensor.is_cpu() ? mapping_at(static_cast<const uint8_t*>(tensor.storage().data())) : nullptr;
        file && std::find(files.begin(), files.end(), file) == files.end())
      files.push_back(file);
  return files;
}

Tensor tensor_on(c10::Storage storage, Dtype dtype, at::IntArrayRef sizes, at::IntArrayRef strides, int64_t offset) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                         c10::scalarTypeToTypeMeta(dtype));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, offset);
  return tensor;
}

Tensor pristine(const Tensor& tensor) {
  if (!tensor.defined() || !tensor.has_storage() || !tensor.device().is_cpu()) return {};
  const auto& storage = tensor.storage();
  auto* start = static_cast<const uint8_t*>(storage.data());
  auto file = mapping_at(start);
  if (!file) return {};
  auto offset = static_cast<size_t>(start - reinterpret_cast<const uint8_t*>(file->bytes().data()));
  return tensor_on(file->pristine_storage(offset, storage.nbytes()), tensor.scalar_type(), tensor.sizes(),
                   tensor.strides(), tensor.storage_offset());
}

namespace {

uintptr_t page_size() {
  static const auto size = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

}  // namespace

CleanPages::CleanPages() : pagemap_(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) {}

CleanPages::~CleanPages() {
  if (pagemap_ >= 0) ::close(pagemap_);
}

void CleanPages::release(const Tensor& tensor) const noexcept {
  if (pagemap_ < 0 || !tensor.is_cpu() || tensor.numel() == 0 || !tensor.const_data_ptr()) return;
  constexpr uint64_t kInMemory = uint64_t{1} << 63, kOfFile = uint64_t{1} << 61;  // Linux's admin-guide/mm/pagemap
  std::array<uint64_t, 4096> entries;
  const auto start = reinterpret_cast<uintptr_t>(tensor.const_data_ptr()), size = page_size();
  const auto end = (start + tensor.nbytes() + size - 1) / size;
  for (auto first = start / size; first < end; first += entries.size()) {
    const auto count = std::min(entries.size(), end - first), bytes = count * sizeof(uint64_t);
    if (::pread(pagemap_, entries.data(), bytes, off_t(first * sizeof(uint64_t))) != ssize_t(bytes)) return;
    auto is_clean = [&](size_t i) { return (entries[i] & kInMemory) && (entries[i] & kOfFile); };
    for (size_t i = 0, run = 0; i < count; i += run + 1) {
      for (run = 0; i + run < count && is_clean(i + run);) ++run;
      if (run > 0) ::madvise(reinterpret_cast<void*>((first + i) * size), run * size, MADV_DONTNEED);
    }
  }
}

void make_writable(const Tensor& tensor) {
#if defined(MADV_POPULATE_WRITE)
  if (!tensor.is_cpu() || tensor.numel() == 0) return;
  const auto page = page_size();
  auto begin = reinterpret_cast<uintptr_t>(tensor.data_ptr()) & ~(page - 1);
  auto end = reinterpret_cast<uintptr_t>(tensor.data_ptr()) + tensor.nbytes();
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE);
#endif
}

}  // namespace lora
