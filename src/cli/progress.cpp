#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>

namespace lora::cli {

namespace {

constexpr int kBarWidth = 30;

// "7 s", "2:05", "1:00:09".
std::string duration(double seconds) {
  const auto whole = int64_t(std::ceil(seconds));
  const auto hours = whole / 3600, minutes = whole / 60 % 60;
  if (hours) return fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60);
  return minutes ? fmt::format("{}:{:02}", minutes, whole % 60) : fmt::format("{} s", whole);
}

class DownloadBar {
 public:
  ~DownloadBar() { end_line(); }

  void show(const HubProgress& now) {
    auto seconds = time_.seconds();
    if (seconds < 1 || !isatty(STDERR_FILENO)) return;
    auto done = now.total_bytes == 0 ? 0 : std::min(1.0, double(now.bytes) / double(now.total_bytes));
    fmt::print(stderr, "\r[{:<{}}] {}/{} files  {:.0f}/{:.0f} MB  {:.1f} MB/s ",
               std::string(size_t(kBarWidth * done), '#'), kBarWidth, now.files, now.total_files,
               double(now.bytes) / 1e6, double(now.total_bytes) / 1e6, double(now.bytes) / 1e6 / seconds);
    open_ = true;
    if (now.files == now.total_files) end_line();
  }

 private:
  Progress time_;
  bool open_ = false;

  void end_line() {
    if (std::exchange(open_, false)) fmt::print(stderr, "\n");
  }
};

}  // namespace

void Progress::show(int done, int total) {
  if (!isatty(STDERR_FILENO)) return;
  std::string bar(size_t(kBarWidth * done / total), '#');
  const double step = seconds() / done;
  fmt::print(stderr, "\r[{:<{}}] {}/{}  {:.2f} s/step  {:<13}", bar, kBarWidth, done, total, step,
             duration((total - done) * step) + " left");  // as wide as a longer one, which it replaces
  if (done == total) fmt::print(stderr, "\n");
}

std::function<bool(const StepEnd&)> step_progress(const Scheduler& scheduler, int& steps) {
  const int calls = scheduler.order();  // of the model, in each step
  return [calls, &steps, progress = std::make_shared<Progress>()](const StepEnd& step) {
    progress->show(step.step / calls + 1, steps = (step.num_steps + calls - 1) / calls);
    return true;
  };
}

std::function<void(int, int)> progress_after_a_second() {
  return [progress = std::make_shared<Progress>()](int done, int total) {
    if (progress->seconds() > 1) progress->show(done, total);
  };
}

std::function<bool(const HubProgress&)> download_progress() {
  return [bar = std::make_shared<DownloadBar>()](const HubProgress& now) {
    bar->show(now);
    return true;
  };
}

}  // namespace lora::cli
