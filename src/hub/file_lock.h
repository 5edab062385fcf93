#pragma once
// The locks of huggingface_hub (filelock's): flock on a file that stays.
#include <filesystem>
#include <functional>

namespace lora {

class FileLock {
 public:
  // Waits until it has the lock; `waiting` is called now and then, and may throw. Throws Error{io}.
  FileLock(const std::filesystem::path& path, const std::function<void()>& waiting);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  // False on a file system without flock: others may be at the same work.
  bool held() const { return held_; }

 private:
  int fd_ = -1;
  bool held_ = false;
};

}  // namespace lora
