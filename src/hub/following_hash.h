#pragma once
// The digest of a file while it grows, on a thread of its own: SHA-256 takes longer than all else of a download.
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "io/digest.h"

namespace lora {

class FollowingHash {
 public:
  // Reads `fd` from its beginning; `prefix` comes before the file's bytes.
  FollowingHash(int fd, std::unique_ptr<Digest> digest, std::string prefix = "");
  ~FollowingHash();
  FollowingHash(const FollowingHash&) = delete;
  FollowingHash& operator=(const FollowingHash&) = delete;

  // The file has so many bytes now. Fewer than before: it begins anew.
  void grown(uint64_t size);
  // Of all of them. Throws Error{io} where the file cannot be read.
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
