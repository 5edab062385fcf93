#include "core/free_memory.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

namespace lora {

namespace fs = std::filesystem;

namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

// The files of a control group, and the field of memory.stat that counts the cached pages of files.
struct Names {
  const char *limit, *used, *cached;
};
constexpr Names kVersion1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"};
constexpr Names kVersion2{"memory.max", "memory.current", "file"};
constexpr double kVersion1NoLimit = 1e18;  // it writes a number near 2^63

// The number in a file that has nothing else, or `otherwise`.
double number_in(const fs::path& file, double otherwise) {
  double value = 0;
  return std::ifstream(file) >> value ? value : otherwise;
}

// The value of a line "NAME value …" of a file, or 0.
double field_in(const fs::path& file, const std::string& name) {
  std::ifstream in(file);
  for (std::string word, rest; in >> word; std::getline(in, rest)) {
    double value = 0;
    if (word == name && in >> value) return value;
  }
  return 0;
}

double free_in(const fs::path& group, const Names& names) {
  const double limit = number_in(group / names.limit, kNoLimit);
  if (limit >= kVersion1NoLimit) return kNoLimit;
  return limit - number_in(group / names.used, 0) + field_in(group / "memory.stat", names.cached);
}

// The least of a group and of the groups around it. Inside a container, the path of the group may not exist: then the
// root of the mount is the group.
double free_along(const fs::path& mount, const fs::path& group, const Names& names) {
  double least = free_in(mount, names);
  auto folder = mount;
  for (const auto& part : group.relative_path()) {
    folder /= part;
    least = std::min(least, free_in(folder, names));
  }
  return least;
}

double free_in_groups(const fs::path& root) {
  const auto mounts = root / "sys/fs/cgroup";
  double least = kNoLimit;
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // number:controllers:/path
    auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    auto controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    auto group = line.substr(second + 1);
    if (controllers == ",,") least = std::min(least, free_along(mounts, group, kVersion2));
    if (controllers.find(",memory,") != std::string::npos)
      least = std::min(least, free_along(mounts / "memory", group, kVersion1));
  }
  return least;
}

}  // namespace

double free_memory_below(const fs::path& root) {
  constexpr double kKilo = 1024;
  const auto info = root / "proc/meminfo";
  const double machine = field_in(info, "MemAvailable:") * kKilo;
  if (machine == 0) return kNoLimit;
  return std::min(machine + field_in(info, "SwapFree:") * kKilo, free_in_groups(root));
}

double free_memory() { return free_memory_below("/"); }

}  // namespace lora
