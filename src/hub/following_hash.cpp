#include "hub/following_hash.h"

#include <unistd.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "core/check.h"

namespace lora {

namespace {

constexpr size_t kPiece = 128 << 10;  // fits into the second-level cache

}  // namespace

FollowingHash::FollowingHash(int fd, std::unique_ptr<Digest> digest, std::string prefix)
    : fd_(fd), digest_(std::move(digest)), prefix_(std::move(prefix)), thread_([this] { follow(); }) {}

FollowingHash::~FollowingHash() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void FollowingHash::grown(uint64_t size) {
  {
    std::lock_guard lock(mutex_);
    restart_ = restart_ || size < size_;
    size_ = size;
  }
  changed_.notify_all();
}

std::string FollowingHash::digits() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failed_ || (done_ == size_ && !restart_); });
  check(!failed_, ErrorKind::io, "the downloaded bytes cannot be read back");
  if (size_ == 0) digest_->add(prefix_.data(), prefix_.size());
  return digest_->digits();
}

void FollowingHash::follow() {
  std::vector<char> bytes(kPiece);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return closing_ || restart_ || done_ < size_; });
    if (closing_) return;
    if (std::exchange(restart_, false)) {
      digest_->digits();
      done_ = 0;
      changed_.notify_all();
      continue;
    }
    auto at = done_;
    auto wanted = std::min<uint64_t>(kPiece, size_ - at);
    lock.unlock();
    auto read = ::pread(fd_, bytes.data(), wanted, off_t(at));
    if (read > 0) {
      if (at == 0) digest_->add(prefix_.data(), prefix_.size());
      digest_->add(bytes.data(), size_t(read));
    }
    lock.lock();
    if (read <= 0) failed_ = !restart_;  // if the file was cut in the meantime, the digest restarts
    if (read > 0 && !restart_) done_ = at + uint64_t(read);
    changed_.notify_all();
    if (failed_) return;
  }
}

}  // namespace lora
