#pragma once
// The progress of a call, over all its threads, and whether the call must stop.
#include <atomic>
#include <chrono>
#include <mutex>

#include "lora/hub.h"

namespace lora {

class Meter {
 public:
  Meter(std::function<bool(const HubProgress&)> report, std::string repo_id) : report_(std::move(report)) {
    now_.repo_id = std::move(repo_id);
  }

  void expect_files(size_t files);
  void expect_bytes(uint64_t bytes);
  // `bytes` is negative if bytes must be downloaded again.
  void add(const std::string& file, int64_t bytes);
  void file_done(const std::string& file);
  // Throws Error{cancelled} if the call must stop.
  void check_stop();
  void stop() { stop_ = true; }
  bool stopped() const { return stop_; }
  // Waits. Throws as check_stop() does.
  void wait(double seconds);

 private:
  std::mutex mutex_;
  std::function<bool(const HubProgress&)> report_;
  HubProgress now_;
  std::chrono::steady_clock::time_point last_{};
  std::atomic<bool> stop_ = false;

  void report(bool always);
};

}  // namespace lora
