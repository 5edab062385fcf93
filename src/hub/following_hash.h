#pragma once
// Computes the digest of a file while the file grows, on its own thread. SHA-256 is the slowest part of a download.
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "io/digest.h"

namespace lora {

class FollowingHash {
 public:
  // Reads `fd` from its beginning. The digest is of `prefix` and then the file's bytes.
  FollowingHash(int fd, std::unique_ptr<Digest> digest, std::string prefix = "");
  ~FollowingHash();
  FollowingHash(const FollowingHash&) = delete;
  FollowingHash& operator=(const FollowingHash&) = delete;

  // Tells the size of the file. If it is smaller than before, the digest restarts.
  void grown(uint64_t size);
  // The digest of all bytes; waits for them. Throws Error{io} if the file cannot be read.
  std::string digits();

 private:
  int fd_;
  std::unique_ptr<Digest> digest_;
  std::string prefix_;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t size_ = 0, done_ = 0;
  bool closing_ = false, restart_ = false, failed_ = false;
  std::thread thread_;

  void follow();
};

}  // namespace lora
