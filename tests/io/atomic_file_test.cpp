#include "io/atomic_file.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>

#include "io/json_file.h"
#include "io/support.h"

namespace lora {

TEST(AtomicFile, NothingShowsBeforeCommit) {
  TemporaryFolder dir;
  dir.write("a", "old");
  AtomicFile file(dir / "a");
  file.write("new", 3);
  EXPECT_EQ(read_bytes(dir / "a"), "old");
  EXPECT_EQ(dir.names().size(), 2u);
  file.commit();
  EXPECT_EQ(read_bytes(dir / "a"), "new");
  EXPECT_EQ(dir.names(), std::vector<std::string>{"a"});
}

TEST(AtomicFile, WithoutCommitNothingIsLeft) {
  TemporaryFolder dir;
  { AtomicFile(dir / "a").write("x", 1); }
  EXPECT_TRUE(dir.names().empty());
}

TEST(AtomicFile, SmallAndLargeWritesKeepTheirOrder) {
  TemporaryFolder dir;
  std::string wanted;
  AtomicFile file(dir / "a");
  for (size_t size : {1, 70'000, 3, 65'535, 65'536, 2, 0, 200'000}) {
    std::string part(size, static_cast<char>('a' + size % 26));
    file.write(part.data(), part.size());
    wanted += part;
  }
  file.commit();
  EXPECT_EQ(read_bytes(dir / "a"), wanted);
}

TEST(AtomicFile, TwoWritersOfOnePathDoNotCollide) {
  TemporaryFolder dir;
  AtomicFile one(dir / "a"), two(dir / "a");
  one.write("one", 3);
  two.write("two", 3);
  two.commit();
  one.commit();
  EXPECT_EQ(read_bytes(dir / "a"), "one");
  EXPECT_EQ(dir.names().size(), 1u);
}

TEST(AtomicFile, KeepsThePermissionsOfTheFileItReplaces) {
  TemporaryFolder dir;
  ::chmod(dir.write("a", "old").c_str(), 0600);
  write_text(dir / "a", "new");
  struct stat info {};
  ::stat((dir / "a").c_str(), &info);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST(AtomicFile, RefusesWhatIsNoFile) {
  TemporaryFolder dir;
  std::filesystem::create_directory(dir / "folder");
  EXPECT_TRUE(fails(ErrorKind::io, "folder: is a folder", [&] { write_text(dir / "folder", "x"); }));
  EXPECT_TRUE(fails(ErrorKind::io, "/dev/null: is a device", [&] { write_text("/dev/null", "x"); }));
  EXPECT_TRUE(fails(ErrorKind::io, "No such file or directory", [&] { write_text(dir / "none/a", "x"); }));
}

TEST(AtomicFile, AFullDiskLeavesTheOldFileAndNoTemporary) {
  TemporaryFolder dir;
  dir.write("a", "old");
  // A limit on the size of files has the effect of a full disk.
  auto handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit before {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  struct rlimit limit = {4096, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  auto buffered = fails(ErrorKind::io, "a: cannot be written: File too large",
                        [&] { write_text(dir / "a", std::string(5000, 'x')); });
  auto direct = fails(ErrorKind::io, "a: cannot be written: File too large",
                      [&] { write_text(dir / "a", std::string(100'000, 'x')); });
  auto tensors = fails(ErrorKind::io, "File too large", [&] { save_safetensors({{"x", at::zeros(5000)}}, dir / "a"); });
  auto pickle = fails(ErrorKind::io, "File too large", [&] { save_pickle({{"x", at::zeros(50000)}}, dir / "a"); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(buffered);
  EXPECT_TRUE(direct);
  EXPECT_TRUE(tensors);
  EXPECT_TRUE(pickle);
  EXPECT_EQ(read_bytes(dir / "a"), "old");
  EXPECT_EQ(dir.names().size(), 1u);
}

}  // namespace lora
