#pragma once
// How many threads the command computes with.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>

#include "lora/pipeline.h"

namespace lora::cli {

// The cores that this process may run on, or the CPU quota of its cgroup, rounded up, whichever is less. At least 1.
// `root` is the folder that has proc/self/cgroup and sys/fs/cgroup, for versions 1 and 2 of cgroups.
int available_threads(const std::filesystem::path& root = "/");

// Gives libtorch as many threads as available_threads() says, unless OMP_NUM_THREADS is set.
void use_available_threads();

struct Threads {
  std::optional<int> number;  // nullopt: the command chooses

  // Declares --threads, which takes effect while the command line is parsed.
  void declare(CLI::App& command);
  // If the command chooses, a network of fewer than 32 million parameters gets one thread: its steps are so short that
  // a second thread takes longer to wake up than it saves.
  void fit(const DiffusionPipeline& pipe) const;
};

}  // namespace lora::cli
