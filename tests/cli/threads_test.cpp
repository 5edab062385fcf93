// How many threads the command takes, and how they wait.
#include "cli/threads.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <fstream>

#include "command.h"

namespace lora {
namespace {

void write(const std::filesystem::path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

// available_threads() where this thread may run on `cores` cores and the files of the cgroup are those.
int threads(int cores, const std::map<std::string, std::string>& files) {
  TemporaryFolder root;
  for (const auto& [file, text] : files) write(root / file, text);
  cpu_set_t before, few;
  EXPECT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  CPU_ZERO(&few);
  for (int core = 0; core < CPU_SETSIZE && CPU_COUNT(&few) < cores; ++core)
    if (CPU_ISSET(core, &before)) CPU_SET(core, &few);
  EXPECT_EQ(::sched_setaffinity(0, sizeof(few), &few), 0);
  int count = cli::available_threads(root.path());
  EXPECT_EQ(::sched_setaffinity(0, sizeof(before), &before), 0);
  return count;
}

TEST(Threads, AffinityAndQuota) {
  cpu_set_t all;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(all), &all), 0);
  if (CPU_COUNT(&all) < 2) GTEST_SKIP() << "needs two cores";
  const std::string v2 = "0::/a/b\n", v1 = "4:memory:/a\n1:cpu,cpuacct:/a\n0::/\n";
  EXPECT_EQ(threads(1, {}), 1);
  EXPECT_EQ(threads(2, {}), 2);
  EXPECT_EQ(threads(2, {{"proc/self/cgroup", v2}, {"sys/fs/cgroup/a/b/cpu.max", "max 100000\n"}}), 2);
  EXPECT_EQ(threads(2, {{"proc/self/cgroup", v2}, {"sys/fs/cgroup/a/b/cpu.max", "100000 100000\n"}}), 1);
  EXPECT_EQ(threads(2, {{"proc/self/cgroup", v2}, {"sys/fs/cgroup/a/b/cpu.max", "150000 100000\n"}}), 2)
      << "rounded up";
  EXPECT_EQ(threads(2, {{"proc/self/cgroup", v2}, {"sys/fs/cgroup/a/b/cpu.max", "20000 100000\n"}}), 1) << "at least 1";
  EXPECT_EQ(threads(2, {{"proc/self/cgroup", v2}, {"sys/fs/cgroup/a/cpu.max", "50000 100000\n"}}), 1) << "around it";
  EXPECT_EQ(threads(2, {{"proc/self/cgroup", v2}, {"sys/fs/cgroup/cpu.max", "50000 100000\n"}}), 1) << "a container";
  EXPECT_EQ(threads(2, {{"proc/self/cgroup", v1},
                        {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "100000\n"},
                        {"sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n"}}),
            1);
  EXPECT_EQ(threads(2, {{"proc/self/cgroup", v1},
                        {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n"},
                        {"sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n"}}),
            2)
      << "no quota";
}

TEST(Threads, TheirNumberIsChecked) {
  for (const char* wrong : {"0", "-1", "two", "1.5"})
    expect_error("generate models/tiny -p cat --threads " + std::string(wrong), 2, "--threads");
}

// libgomp prints what it read.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(Threads, WaitWithoutSpinning) {
  auto spins = [](const std::string& environment) -> long long {
    TemporaryFolder folder;
    auto command = "env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT OMP_DISPLAY_ENV=verbose " + environment +
                   " " LORA_COMMAND " --version >" + (folder / "out").string() + " 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0);
    auto out = read(folder / "out");
    auto at = out.find("GOMP_SPINCOUNT = '");
    return at == std::string::npos ? -1 : std::stoll(out.substr(at + 18));
  };
  EXPECT_EQ(spins(""), 0);
  EXPECT_GT(spins("OMP_WAIT_POLICY=active"), 1000000);
  EXPECT_EQ(spins("GOMP_SPINCOUNT=1000"), 1000);
}
#endif

}  // namespace
}  // namespace lora
