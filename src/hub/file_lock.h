#pragma once
// The same locks as in huggingface_hub (package filelock): flock on a file that is never deleted.
#include <filesystem>
#include <functional>

namespace lora {

class FileLock {
 public:
  // Waits for the lock. Calls `waiting` repeatedly in the meantime; it must sleep, and may throw. Throws Error{io}.
  FileLock(const std::filesystem::path& path, const std::function<void()>& waiting);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  // False if the file system does not have flock. Other processes may then do the same work at the same time.
  bool held() const { return held_; }

 private:
  int fd_ = -1;
  bool held_ = false;
};

}  // namespace lora
