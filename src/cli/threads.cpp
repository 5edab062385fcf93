#include "threads.h"

#include <ATen/Parallel.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

namespace lora::cli {

namespace {

constexpr int64_t kSmallNetwork = 32'000'000;  // parameters
constexpr double kNoLimit = std::numeric_limits<double>::infinity();

bool chosen_by_user() { return std::getenv("OMP_NUM_THREADS") != nullptr; }

// The first number of the file; nullopt if the file does not begin with one ("max").
std::optional<double> number_in(const std::filesystem::path& file) {
  double number = 0;
  return std::ifstream(file) >> number ? std::optional(number) : std::nullopt;
}

// The cores' worth of time that one folder of a cgroup allows.
double quota_of(const std::filesystem::path& folder, bool version_2) {
  if (!version_2) {
    auto quota = number_in(folder / "cpu.cfs_quota_us"), period = number_in(folder / "cpu.cfs_period_us");
    return quota && period && *quota > 0 && *period > 0 ? *quota / *period : kNoLimit;
  }
  double quota = 0, period = 0;
  std::ifstream file(folder / "cpu.max");
  return file >> quota >> period && quota > 0 && period > 0 ? quota / period : kNoLimit;
}

// The least quota of a group and of the groups around it. Inside a container, the path of the group may not exist: then
// the root of the mount is the group.
double quota_along(const std::filesystem::path& mount, const std::filesystem::path& group, bool version_2) {
  double least = quota_of(mount, version_2);
  auto folder = mount;
  for (const auto& part : group.relative_path()) {
    folder /= part;
    least = std::min(least, quota_of(folder, version_2));
  }
  return least;
}

double cgroup_quota(const std::filesystem::path& root) {
  auto mounts = root / "sys/fs/cgroup";
  double least = kNoLimit;
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // number:controllers:/path
    auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    auto controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    auto group = line.substr(second + 1);
    if (controllers == ",,") least = std::min(least, quota_along(mounts, group, /*version_2=*/true));
    if (controllers.find(",cpu,") != std::string::npos)
      least = std::min(least, quota_along(mounts / "cpu", group, /*version_2=*/false));
  }
  return least;
}

}  // namespace

int available_threads(const std::filesystem::path& root) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  int count = ::sched_getaffinity(0, sizeof(cores), &cores) == 0 ? CPU_COUNT(&cores) : at::get_num_threads();
  return std::max(1, int(std::min(double(count), std::ceil(cgroup_quota(root)))));
}

void use_available_threads() {
  if (!chosen_by_user()) at::set_num_threads(available_threads());
}

void Threads::declare(CLI::App& command) {
  command
      .add_option_function<int>(
          "--threads",
          [this, &command](int threads) {
            number = threads;
            if (command.parsed()) at::set_num_threads(threads);  // a config file has values for other verbs too
          },
          "How many threads compute. Default: the cores that this process may use; 1 for a very small model.")
      ->check(CLI::Range(1, 4096).description(""));
}

void Threads::fit(const DiffusionPipeline& pipe) const {
  if (number || chosen_by_user()) return;
  if (pipe.models().front().model->num_parameters() < kSmallNetwork) at::set_num_threads(1);
}

}  // namespace lora::cli
