#include "hub/meter.h"

#include <thread>

#include "core/check.h"
#include "core/edge.h"

namespace lora {

using namespace std::chrono_literals;

void Meter::expect_files(size_t files) {
  std::lock_guard lock(mutex_);
  now_.total_files += files;
}

void Meter::expect_bytes(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  now_.total_bytes += bytes;
}

void Meter::add(const std::string& file, int64_t bytes) {
  std::lock_guard lock(mutex_);
  now_.bytes += uint64_t(bytes);
  now_.file = file;
  report(/*always=*/false);
}

void Meter::file_done(const std::string& file) {
  std::lock_guard lock(mutex_);
  ++now_.files;
  now_.file = file;
  report(/*always=*/true);
}

void Meter::report(bool always) {
  constexpr auto kOften = 50ms;
  auto now = std::chrono::steady_clock::now();
  if (!report_ || (!always && now - last_ < kOften)) return;
  last_ = now;
  if (!callers([&] { return report_(now_); })) stop_ = true;
}

void Meter::check_stop() {
  check(!stop_, ErrorKind::cancelled, "{}: the download was stopped; the next call continues it", now_.repo_id);
}

void Meter::wait(double seconds) {
  auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(50ms);
    {
      std::lock_guard lock(mutex_);
      report(/*always=*/false);  // the callback may ask to stop
    }
    check_stop();
  }
}

}  // namespace lora
