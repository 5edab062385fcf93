#include "io/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <random>
#include <system_error>
#include <utility>

#include "core/check.h"

namespace lora {

namespace {

constexpr size_t kBufferSize = 1 << 16;

}  // namespace

std::string reason_of(int error) { return std::generic_category().message(error); }

std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  std::random_device random;
  uint64_t bits = (uint64_t{random()} << 32) | random();
  return path.parent_path() / fmt::format(".{}.{}.{:016x}.tmp", path.filename().string(), ::getpid(), bits);
}

int sync_folder_of(const std::filesystem::path& path) {
  std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  int error = ::fsync(fd) == 0 || errno == EINVAL ? 0 : errno;
  ::close(fd);
  return error;
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  struct stat old {};
  bool replaces = ::stat(path_.c_str(), &old) == 0;
  check(!replaces || S_ISREG(old.st_mode), ErrorKind::io, "{}: is {}; wanted the name of a file to write",
        path_.string(), S_ISDIR(old.st_mode) ? "a folder" : "a device or pipe");
  buffer_.reserve(kBufferSize);
  temporary_ = temporary_beside(path_);
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  check(fd_ >= 0, ErrorKind::io, "{}: cannot be created: {}", path_.string(), reason_of(errno));
  if (replaces) ::fchmod(fd_, old.st_mode & 07777);  // best effort: the contents matter more than the permissions
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t size) {
  if (buffer_.size() + size > kBufferSize) flush();
  if (size >= kBufferSize)
    write_through(static_cast<const char*>(data), size);
  else
    buffer_.append(static_cast<const char*>(data), size);
}

void AtomicFile::overwrite(uint64_t position, const void* data, size_t size) {
  flush();
  ssize_t written = ::pwrite(fd_, data, size, static_cast<off_t>(position));
  check(written == static_cast<ssize_t>(size), ErrorKind::io, "{}: cannot be written: {}", path_.string(),
        reason_of(written < 0 ? errno : ENOSPC));
}

const std::filesystem::path& AtomicFile::written() {
  flush();
  return temporary_;
}

void AtomicFile::commit() {
  flush();
  check(::fsync(fd_) == 0, ErrorKind::io, "{}: cannot be written: {}", path_.string(), reason_of(errno));
  int closed = ::close(std::exchange(fd_, -1));
  check(closed == 0, ErrorKind::io, "{}: cannot be written: {}", path_.string(), reason_of(errno));
  check(::rename(temporary_.c_str(), path_.c_str()) == 0, ErrorKind::io, "{}: cannot be replaced: {}", path_.string(),
        reason_of(errno));
  temporary_.clear();
  int error = sync_folder_of(path_);
  check(error == 0, ErrorKind::io, "{}: written, but its folder cannot be synced: {}", path_.string(),
        reason_of(error));
}

void AtomicFile::write_through(const char* data, size_t size) {
  while (size > 0) {
    ssize_t written = ::write(fd_, data, size);
    if (written < 0 && errno == EINTR) continue;
    check(written >= 0, ErrorKind::io, "{}: cannot be written: {}", path_.string(), reason_of(errno));
    data += written;
    size -= static_cast<size_t>(written);
  }
}

void AtomicFile::flush() {
  write_through(buffer_.data(), buffer_.size());
  buffer_.clear();
}

}  // namespace lora
