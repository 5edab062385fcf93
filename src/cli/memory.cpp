#include "memory.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "check.h"

namespace lora::cli {

namespace {

std::string size_text(double bytes) {
  if (bytes < 1e9) return fmt::format("{:.0f} MB", bytes / 1e6);
  return fmt::format("{:.{}f} GB", bytes / 1e9, bytes < 1e10 ? 1 : 0);
}

bool on_cpu(const Pipelines& pipes) { return pipes.front()->device().is_cpu(); }

// What must be free for a call, beside the weights that are in memory already. The pipelines work one after the other.
double needed(const Pipelines& pipes, const CallOptions& call, double free) {
  double most = 0;
  for (const auto* pipe : pipes) most = std::max(most, pipe->memory_needed(call, free).more());
  return most;
}

}  // namespace

int pictures_that_fit(const Pipelines& pipes, CallOptions call, int most) {
  if (!on_cpu(pipes)) return most;
  const double free = free_memory();
  int fits = 1, too_many = most + 1;
  while (fits + 1 < too_many) {
    call.num_images_per_prompt = fits + (too_many - fits) / 2;
    (needed(pipes, call, free) <= free ? fits : too_many) = call.num_images_per_prompt;
  }
  return fits;
}

void check_memory(const Pipelines& pipes, const CallOptions& call) {
  if (!on_cpu(pipes)) return;
  const double free = free_memory(), more = needed(pipes, call, free);
  const char* fewer = call.num_images_per_prompt > 1 ? " or --batch-size" : "";
  check(more <= free, ErrorKind::usage,
        "the call needs about {} of memory, but {} are free. Choose a smaller --size{}, or try it with --yes.",
        size_text(more), size_text(free), fewer);
}

void MemoryReport::add(const Pipelines& pipes, const CallOptions& call) {
  if (!on_cpu(pipes)) free_ = std::numeric_limits<double>::infinity();  // of a GPU, it is not known
  double weights = 0, kept = 0;
  std::vector<MemoryNeeded> all;
  for (const auto* pipe : pipes) {
    all.push_back(pipe->memory_needed(call, free_));
    weights += all.back().weights;
    kept += all.back().kept;
  }
  weights_ = std::max(weights_, weights);
  for (const auto& one : all) {
    const double others = kept - one.kept;
    encoding_ = std::max(encoding_, others + one.encoding);
    denoising_ = std::max(denoising_, others + one.denoising);
    decoding_ = std::max(decoding_, others + one.decoding);
  }
}

std::string MemoryReport::text() const {
  const auto free = std::isinf(free_) ? "" : fmt::format("; {} are free", size_text(free_));
  return fmt::format("lora: memory: about {} at once (text {}, steps {}, decoding {}){}",
                     size_text(std::max({encoding_, denoising_, decoding_})), size_text(encoding_),
                     size_text(denoising_), size_text(decoding_), free);
}

nlohmann::ordered_json MemoryReport::json() const {
  nlohmann::ordered_json report{{"peak", std::llround(std::max({encoding_, denoising_, decoding_}))},
                                {"weights", std::llround(weights_)},
                                {"encoding", std::llround(encoding_)},
                                {"denoising", std::llround(denoising_)},
                                {"decoding", std::llround(decoding_)}};
  if (!std::isinf(free_)) report["free"] = std::llround(free_);
  return report;
}

}  // namespace lora::cli
