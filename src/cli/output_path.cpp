#include "output_path.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "check.h"

namespace lora::cli {

namespace fs = std::filesystem;

namespace {

// Tries it: permissions alone do not tell of read-only disks.
void check_can_create_in(const fs::path& folder, const fs::path& output) {
  auto trial = (folder / fmt::format(".lora-{}.tmp", ::getpid())).string();
  const int fd = ::open(trial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  check(fd >= 0, ErrorKind::io, "--output {}: the folder {} cannot be written: {}", output.string(), folder.string(),
        std::strerror(errno));
  ::close(fd);
  ::unlink(trial.c_str());
}

}  // namespace

void check_can_write_file(const fs::path& file) {
  const auto folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  std::error_code error;
  check(fs::is_directory(folder, error), ErrorKind::io, "--output {}: no such folder: {}", file.string(),
        folder.string());
  check(!fs::is_directory(file, error), ErrorKind::io, "--output {}: is a folder. Give the name of a file.",
        file.string());
  check_can_create_in(folder, file);
}

void check_can_write_folder(const fs::path& folder) {
  std::error_code error;
  auto there = fs::absolute(folder);
  while (!fs::exists(there, error) && there.has_parent_path() && there != there.parent_path())
    there = there.parent_path();
  check(fs::is_directory(there, error), ErrorKind::io, "--output {}: {} is not a folder", folder.string(),
        there.string());
  check_can_create_in(there, folder);
}

}  // namespace lora::cli
