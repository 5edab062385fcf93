#pragma once
// Progress bars on stderr. Where stderr is not a terminal, they show nothing.
#include <chrono>
#include <functional>

#include "lora/hub.h"
#include "lora/pipeline.h"

namespace lora::cli {

// A bar with the time that a step takes, and how long the rest will take.
class Progress {
 public:
  void show(int done, int total);
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// A bar of the steps of one call: its callback_on_step_end. Sets `steps` to their number, which must outlive the call.
std::function<bool(const StepEnd&)> step_progress(const Scheduler& scheduler, int& steps);
// A bar for work that is usually quick: it appears after one second.
std::function<void(int done, int total)> progress_after_a_second();
// The same for downloads from the Hub: files, megabytes, and megabytes a second.
std::function<bool(const HubProgress&)> download_progress();

}  // namespace lora::cli
