#include "io/atomic_folder.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>
#include <map>

#include "io/atomic_file.h"
#include "io/json_file.h"
#include "io/support.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

const FolderRules kRules{.marks = {"index.json"},
                         .replaces = [](auto& file) { return file.filename().string().starts_with("weights"); }};

void put(const fs::path& file, std::string_view text) {
  fs::create_directories(file.parent_path());
  write_text(file, text);
}

// Each file below a folder with its text; a link with its target.
std::map<std::string, std::string> tree(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    auto name = entry.path().lexically_relative(folder).string();
    if (entry.is_symlink())
      files[name] = "-> " + fs::read_symlink(entry.path()).string();
    else if (entry.is_regular_file())
      files[name] = read_bytes(entry.path());
  }
  return files;
}

void write_model(AtomicFolder& out, std::string_view text) {
  put(out.path() / "unet/weights.st", text);
  put(out.path() / "index.json", text);
}

const std::map<std::string, std::string> kNew{{"index.json", "new"}, {"unet/weights.st", "new"}};
const std::map<std::string, std::string> kOld{{"index.json", "old"}, {"unet/weights.st", "old"}};

void make_old(const fs::path& folder) {
  put(folder / "unet/weights.st", "old");
  put(folder / "index.json", "old");
}

}  // namespace

TEST(AtomicFolder, NothingShowsBeforeCommit) {
  TemporaryFolder dir;
  make_old(dir / "m");
  ::chmod((dir / "m").c_str(), 0750);
  AtomicFolder out(dir / "m", kRules);
  write_model(out, "new");
  EXPECT_EQ(tree(dir / "m"), kOld);
  out.commit();
  EXPECT_EQ(tree(dir / "m"), kNew);
  EXPECT_EQ(dir.names(), std::vector<std::string>{"m"});
  struct stat info {};
  ::stat((dir / "m").c_str(), &info);
  EXPECT_EQ(info.st_mode & 0777, 0750u);
}

TEST(AtomicFolder, WithoutCommitNothingIsLeft) {
  TemporaryFolder dir;
  {
    AtomicFolder out(dir / "deep/er/m", kRules);
    write_model(out, "new");
  }
  EXPECT_TRUE(dir.names().empty());
}

TEST(AtomicFolder, EverySpellingOfAFolderIsThatFolder) {
  TemporaryFolder dir;
  make_old(dir / "m");
  fs::create_directory_symlink(dir / "m", dir / "link");
  fs::create_directory(dir / "empty");
  auto before = fs::current_path();
  fs::current_path(dir.path());
  for (const fs::path name :
       {"m", "./m/", "link", "link/", "empty/../m", "fresh", "fresh2/", "a/b/fresh3", "empty", "empty/"}) {
    AtomicFolder out(name, kRules);
    write_model(out, "new");
    out.commit();
    EXPECT_EQ(tree(name), kNew) << name;
  }
  fs::current_path(before);
  EXPECT_TRUE(fs::is_symlink(dir / "link")) << "the link stays, its target is replaced";
  EXPECT_EQ(dir.names().size(), 6u);
}

TEST(AtomicFolder, OtherFilesStayAndPartsOfTheOldOnesGo) {
  TemporaryFolder dir;
  make_old(dir / "m");
  put(dir / "m/unet/weights-1-of-2.st", "old");  // beside a new file
  put(dir / "m/unet/notes.txt", "mine");
  put(dir / "m/weights.txt", "old");  // beside a new file: index.json
  put(dir / "m/other/weights.st", "mine");
  put(dir / "m/other/deep/x", "mine");
  fs::create_symlink("nowhere", dir / "m/link");
  struct stat before {
  }, after{};
  ::stat((dir / "m/other/deep/x").c_str(), &before);
  AtomicFolder out(dir / "m", kRules);
  write_model(out, "new");
  out.commit();
  EXPECT_EQ(tree(dir / "m"), (std::map<std::string, std::string>{{"index.json", "new"},
                                                                 {"link", "-> nowhere"},
                                                                 {"other/deep/x", "mine"},
                                                                 {"other/weights.st", "mine"},
                                                                 {"unet/notes.txt", "mine"},
                                                                 {"unet/weights.st", "new"}}));
  ::stat((dir / "m/other/deep/x").c_str(), &after);
  EXPECT_EQ(before.st_ino, after.st_ino) << "files that stay are not copied";
}

TEST(AtomicFolder, RefusesBeforeItWrites) {
  TemporaryFolder dir;
  dir.write("file", "x");
  put(dir / "home/notes.txt", "mine");
  fs::create_symlink("nowhere", dir / "dangling");
  make_old(dir / "m");
  auto refuses = [&](const fs::path& folder, const std::string& part) {
    EXPECT_TRUE(fails(ErrorKind::io, part, [&] { AtomicFolder(folder, kRules); }));
  };
  refuses(dir / "file", "file: is a file; wanted a folder");
  refuses(dir / "file/m", "Not a directory");
  refuses(dir / "home", "home: the folder is not empty, and has no index.json");
  refuses(dir / "dangling", "is a link to a folder that does not exist");
  refuses("/proc/m", "/proc/m: cannot be created");
  EXPECT_TRUE(fails(ErrorKind::usage, "empty", [&] { AtomicFolder("", kRules); }));
  auto before = fs::current_path();
  fs::current_path(dir / "m/unet");
  refuses("..", "the current folder");
  fs::current_path(before);
  EXPECT_EQ(dir.names().size(), 4u);
  EXPECT_EQ(tree(dir / "m"), kOld);
}

TEST(AtomicFolder, AFileInTheWayIsNotLost) {
  for (const std::string name : {"index.json", "unet"}) {
    TemporaryFolder dir;
    make_old(dir / "m");
    fs::remove_all(dir / ("m/" + name));
    if (name == "unet")
      put(dir / "m/unet", "mine");
    else
      put(dir / "m/index.json/x", "mine");
    auto before = tree(dir / "m");
    {
      AtomicFolder out(dir / "m", kRules);
      write_model(out, "new");
      EXPECT_TRUE(
          fails(ErrorKind::io, name == "unet" ? "unet: is a file" : "index.json: is a folder", [&] { out.commit(); }));
    }
    EXPECT_EQ(tree(dir / "m"), before);
    EXPECT_EQ(dir.names().size(), 1u);
  }
}

TEST(AtomicFolder, TheNextWriterRemovesWhatAKilledOneLeft) {
  TemporaryFolder dir;
  make_old(dir / "m");
  pid_t dead = ::fork();
  if (dead == 0) ::_exit(0);
  ::waitpid(dead, nullptr, 0);
  auto name = [](const std::string& of, pid_t process) { return "." + of + "." + std::to_string(process) + ".0.tmp"; };
  for (const auto& left : {name("m", dead), name("other", dead), name("m", ::getppid()), std::string(".m.x.tmp")})
    fs::create_directory(dir / left);
  AtomicFolder alive(dir / "m", kRules);
  {
    AtomicFolder out(dir / "m", kRules);
    write_model(out, "new");
    out.commit();
  }
  EXPECT_EQ(tree(dir / "m"), kNew);
  EXPECT_FALSE(fs::exists(dir / name("m", dead)));
  EXPECT_TRUE(fs::exists(dir / name("other", dead)));
  EXPECT_TRUE(fs::exists(dir / name("m", ::getppid())));
  EXPECT_TRUE(fs::exists(dir / ".m.x.tmp"));
  write_model(alive, "newer");
  alive.commit();
  EXPECT_EQ(read_bytes(dir / "m/index.json"), "newer") << "of two writers, the last one wins";
}

TEST(AtomicFolder, AFullDiskLeavesTheOldFolder) {
  TemporaryFolder dir;
  make_old(dir / "m");
  auto handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit before {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  struct rlimit limit = {4096, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  EXPECT_TRUE(fails(ErrorKind::io, "cannot be written", [&] {
    AtomicFolder out(dir / "m", kRules);
    put(out.path() / "index.json", "new");
    put(out.path() / "unet/weights.st", std::string(100'000, 'x'));
    out.commit();
  }));
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(tree(dir / "m"), kOld);
  EXPECT_EQ(dir.names().size(), 1u);
}

}  // namespace lora
