// Downloads that break off, are killed, or run at the same time as others of the same file.
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "hub/hub_test.h"

namespace lora {

using nlohmann::json;

class Resume : public HubTest {
 protected:
  static void SetUpTestSuite() {
    HubTest::SetUpTestSuite();
    stub().write("owner/big", "big.safetensors", big());
  }
  static const std::string& big() {
    static const std::string bytes = random_bytes(4'000'000, 7);
    return bytes;
  }
  static void rule(json rule) { stub().rules(json::array({std::move(rule)})); }
  static fs::path download() { return hf_hub_download("owner/big", "big.safetensors"); }
  fs::path blob() const { return home_.repo("owner--big") / "blobs" / sha256(big()); }
  fs::path incomplete() const { return blob().string() + ".incomplete"; }
  // Bytes that the storage server sent.
  static uint64_t sent() {
    uint64_t bytes = 0;
    for (const auto& request : stub().log())
      if (request["server"] == "storage") bytes += request["sent"].get<uint64_t>();
    return bytes;
  }
  // Calls it in another process. Returns the process's status from waitpid.
  template <class F>
  static pid_t in_another_process(F&& work) {
    pid_t child = ::fork();
    if (child != 0) return child;
    int code = 0;
    try {
      work();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      code = 1;
    }
    ::_exit(code);
  }
  static int status_of(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
  }
};

TEST_F(Resume, ABrokenConnectionIsTakenUpWhereItBroke) {
  rule({{"server", "storage"}, {"times", 3}, {"do", {{"cut_after", 1'000'000}}}});
  EXPECT_EQ(bytes_of(download()), big());
  EXPECT_EQ(stub().requests("storage").size(), 4u);
  EXPECT_LT(sent(), big().size() + 100'000);
  EXPECT_FALSE(fs::exists(incomplete()));
}

TEST_F(Resume, AServerThatIgnoresRangesSendsAllAgain) {
  stub().rules({{{"server", "storage"}, {"times", 1}, {"do", {{"cut_after", 1'000'000}}}},
                {{"server", "storage"}, {"do", {{"ignore_range", true}}}}});
  EXPECT_EQ(bytes_of(download()), big());
}

TEST_F(Resume, AConnectionThatAlwaysBreaksKeepsWhatCame) {
  rule({{"server", "storage"}, {"do", {{"cut_after", 0}}}});
  fs::create_directories(blob().parent_path());
  std::ofstream(incomplete(), std::ios::binary) << big().substr(0, 1'234'567);
  HubOptions options;
  int calls = 0;
  options.progress = [&](const HubProgress&) { return ++calls < 20; };  // not for all of its patience
  EXPECT_ERROR(ErrorKind::cancelled, "the download was stopped",
               hf_hub_download("owner/big", "big.safetensors", options));
  EXPECT_EQ(fs::file_size(incomplete()), 1'234'567u);
  stub().reset();
  EXPECT_EQ(bytes_of(download()), big());
  EXPECT_EQ(sent(), big().size() - 1'234'567);
}

TEST_F(Resume, WhatCameDamagedIsDownloadedAnew) {
  fs::create_directories(blob().parent_path());
  auto damaged = big().substr(0, 2'000'000);
  damaged[77] = char(damaged[77] + 1);
  std::ofstream(incomplete(), std::ios::binary) << damaged;
  EXPECT_EQ(bytes_of(download()), big());
}

TEST_F(Resume, WhatIsLongerThanTheFileOrWholeAlready) {
  fs::create_directories(blob().parent_path());
  std::ofstream(incomplete(), std::ios::binary) << big() << "more";
  EXPECT_EQ(bytes_of(download()), big());
  fs::remove_all(home_.cache());
  fs::create_directories(blob().parent_path());
  std::ofstream(incomplete(), std::ios::binary) << big();
  stub().reset();
  EXPECT_EQ(bytes_of(download()), big());
  EXPECT_EQ(sent(), 0u);
}

TEST_F(Resume, ForceBeginsAnew) {
  fs::create_directories(blob().parent_path());
  std::ofstream(incomplete(), std::ios::binary) << std::string(1'000'000, 'x');
  auto path = hf_hub_download("owner/big", "big.safetensors", {.force_download = true});
  EXPECT_EQ(bytes_of(path), big());
  EXPECT_EQ(sent(), big().size());
}

TEST_F(Resume, ABlobOfTheWrongSizeIsReplaced) {
  fs::create_directories(blob().parent_path());
  std::ofstream(blob(), std::ios::binary) << "cut off by a full disk";
  EXPECT_EQ(bytes_of(download()), big());
}

TEST_F(Resume, StoppedByTheCaller) {
  rule({{"server", "storage"}, {"do", {{"bytes_per_second", 2'000'000}}}});
  HubOptions options{.progress = [](const HubProgress& now) { return now.bytes < 500'000; }};
  EXPECT_ERROR(ErrorKind::cancelled, "the next call continues it",
               hf_hub_download("owner/big", "big.safetensors", options));
  EXPECT_FALSE(fs::exists(blob()));
  EXPECT_GT(fs::file_size(incomplete()), 400'000u);
  EXPECT_ERROR(ErrorKind::cancelled, "owner/big", snapshot_download("owner/big", {}, {.progress = options.progress}));
}

// Kills a process at each tenth of the file. The next process continues there.
TEST_F(Resume, KilledAtEveryTenth) {
  rule({{"server", "storage"}, {"do", {{"bytes_per_second", 2'000'000}}}});
  for (uint64_t tenth = 1; tenth < 10; ++tenth) {
    auto status = status_of(in_another_process([&] {
      hf_hub_download("owner/big", "big.safetensors", {.progress = [&](const HubProgress& now) {
                        if (now.bytes >= tenth * big().size() / 10) ::kill(::getpid(), SIGKILL);
                        return true;
                      }});
    }));
    ASSERT_TRUE(WIFSIGNALED(status)) << tenth;
    EXPECT_FALSE(fs::exists(blob()));
    EXPECT_FALSE(fs::exists(home_.repo("owner--big") / "snapshots"));
    EXPECT_GE(fs::file_size(incomplete()), tenth * big().size() / 10) << tenth;
    EXPECT_ERROR(ErrorKind::not_found, "not in the cache",
                 hf_hub_download("owner/big", "big.safetensors", {.local_files_only = true}));
  }
  EXPECT_EQ(bytes_of(download()), big());
  EXPECT_FALSE(fs::exists(incomplete()));
  EXPECT_LT(sent(), big().size() * 3);  // what was under way when a process was killed
}

TEST_F(Resume, TwoProcessesDownloadOnce) {
  rule({{"server", "storage"}, {"do", {{"bytes_per_second", 8'000'000}}}});
  auto one = in_another_process([&] { download(); }), other = in_another_process([&] { download(); });
  EXPECT_EQ(status_of(one), 0);
  EXPECT_EQ(status_of(other), 0);
  EXPECT_EQ(stub().requests("storage").size(), 1u);
  EXPECT_EQ(bytes_of(blob()), big());
  EXPECT_FALSE(fs::exists(incomplete()));
}

TEST_F(Resume, TwoThreadsDownloadOnce) {
  std::thread other([] { download(); });
  download();
  other.join();
  EXPECT_EQ(stub().requests("storage").size(), 1u);
}

TEST_F(Resume, ALockHeldByAnotherIsWaitedFor) {
  auto lock = home_.cache() / ".locks/models--owner--big" / (sha256(big()) + ".lock");
  fs::create_directories(lock.parent_path());
  int fd = ::open(lock.c_str(), O_RDWR | O_CREAT, 0664);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  std::atomic<bool> done = false;
  std::thread other([&] { download(), done = true; });
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_FALSE(done);
  EXPECT_EQ(stub().requests("storage").size(), 0u);
  ::close(fd);
  other.join();
  EXPECT_EQ(bytes_of(blob()), big());
}

TEST_F(Resume, ALockThatIsTakenAwayIsMadeAnew) {
  auto lock = home_.cache() / ".locks/models--owner--big" / (sha256(big()) + ".lock");
  fs::create_directories(lock.parent_path());
  int fd = ::open(lock.c_str(), O_RDWR | O_CREAT, 0664);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  std::thread other([] { download(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  fs::remove(lock);
  other.join();
  ::close(fd);
  EXPECT_EQ(bytes_of(blob()), big());
}

}  // namespace lora
