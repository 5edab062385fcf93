#include "core/free_memory.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "support/folder.h"

namespace lora {

namespace {

// The free memory of a machine with these files, in MB.
double free_with(std::map<std::string, std::string> files) {
  TemporaryFolder root;
  files.try_emplace("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8000 kB\nSwapFree: 1000 kB\n");
  for (const auto& [name, text] : files) {
    std::filesystem::create_directories((root / name).parent_path());
    root.write(name, text);
  }
  return free_memory_below(root.path()) / 1024;
}

}  // namespace

TEST(FreeMemory, IsThatOfTheMachine) {
  EXPECT_EQ(free_with({}), 9000);
  EXPECT_EQ(free_with({{"proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n"}}), 8000);
  EXPECT_TRUE(std::isinf(free_with({{"proc/meminfo", "MemTotal: 9000 kB\n"}})));
}

TEST(FreeMemory, IsNoMoreThanTheGroupAllows) {
  const std::string v2 = "0::/a/b\n", v1 = "4:memory:/a\n1:cpu:/a\n0::/\n";
  const std::string mount = "sys/fs/cgroup/";
  EXPECT_EQ(free_with({{"proc/self/cgroup", v2}, {mount + "a/b/memory.max", "max\n"}}), 9000);
  // Cached pages of files make room when they must.
  EXPECT_EQ(free_with({{"proc/self/cgroup", v2},
                       {mount + "a/b/memory.max", "4096000\n"},
                       {mount + "a/b/memory.current", "2048000\n"},
                       {mount + "a/b/memory.stat", "anon 7\nfile 1024000\nfile_mapped 9\n"}}),
            3000);
  EXPECT_EQ(free_with({{"proc/self/cgroup", v2},
                       {mount + "a/b/memory.max", "4096000\n"},
                       {mount + "a/memory.max", "2048000\n"},
                       {mount + "a/memory.current", "1024000\n"}}),
            1000)
      << "the group around it";
  EXPECT_EQ(free_with({{"proc/self/cgroup", v2}, {mount + "memory.max", "2048000\n"}}), 2000) << "inside a container";
  EXPECT_EQ(free_with({{"proc/self/cgroup", v1},
                       {mount + "memory/memory.limit_in_bytes", "9223372036854771712\n"},
                       {mount + "memory/a/memory.limit_in_bytes", "4096000\n"},
                       {mount + "memory/a/memory.usage_in_bytes", "2048000\n"},
                       {mount + "memory/a/memory.stat", "cache 1\ntotal_cache 1024000\n"}}),
            3000)
      << "version 1";
}

}  // namespace lora
