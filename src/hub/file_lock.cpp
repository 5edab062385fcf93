#include "hub/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "core/check.h"

namespace lora {

namespace {

// Everybody who shares the cache must be able to wait for the lock, whatever the creator's umask.
constexpr mode_t kMode = 0664;

int open_lock(const std::filesystem::path& path) {
  int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, kMode);
  if (fd >= 0) ::fchmod(fd, kMode);
  if (fd < 0 && errno == EEXIST) fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kMode);
  check(fd >= 0, ErrorKind::io, "{}: the lock file cannot be opened: {}", path.string(),
        std::generic_category().message(errno));
  return fd;
}

bool is_still_there(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 && status.st_nlink > 0;
}

}  // namespace

FileLock::FileLock(const std::filesystem::path& path, const std::function<void()>& waiting) {
  while (true) {
    fd_ = open_lock(path);
    if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) {
      held_ = is_still_there(fd_);
      if (held_) return;
    } else if (errno != EWOULDBLOCK && errno != EACCES && errno != EINTR) {
      return;
    }
    ::close(std::exchange(fd_, -1));
    waiting();
  }
}

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace lora
