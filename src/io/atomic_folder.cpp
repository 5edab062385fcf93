#include "io/atomic_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <optional>
#include <utility>

#include "core/check.h"
#include "core/text.h"
#include "io/atomic_file.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kTemporary = ".tmp";

// The absolute path without links and without a slash at its end.
fs::path resolved(const fs::path& folder) {
  check(!folder.empty(), ErrorKind::usage, "the name of the folder to write is empty");
  std::error_code error;
  auto path = fs::weakly_canonical(fs::absolute(folder, error), error);
  check(!error, ErrorKind::io, "{}: {}", folder.string(), error.message());
  return path.has_filename() || !path.has_relative_path() ? path : path.parent_path();
}

bool is_inside(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first == folder.end();
}

struct stat status_of(const fs::path& path) {
  struct stat info {};
  check(::lstat(path.c_str(), &info) == 0, ErrorKind::io, "{}: {}", path.string(), reason_of(errno));
  return info;
}

std::vector<fs::directory_entry> entries_of(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::directory_entry> all;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) all.push_back(*it);
  check(!error, ErrorKind::io, "{}: {}", folder.string(), error.message());
  return all;
}

bool is_folder(const fs::directory_entry& entry) { return entry.is_directory() && !entry.is_symlink(); }

// What is mounted below a folder cannot move with it.
void check_one_file_system(const fs::path& folder, dev_t device) {
  check(status_of(folder).st_dev == device, ErrorKind::io,
        "{}: another file system is mounted here, so the folder around it cannot be replaced. Write to a new folder",
        folder.string());
  for (const auto& entry : entries_of(folder))
    if (is_folder(entry)) check_one_file_system(entry.path(), device);
}

void check_replaceable(const fs::path& folder, const FolderRules& rules) {
  check(fs::is_directory(folder), ErrorKind::io, "{}: is a file; wanted a folder to write", folder.string());
  std::error_code ignored;
  auto current = fs::current_path(ignored);
  check(ignored || !is_inside(fs::weakly_canonical(current, ignored), folder), ErrorKind::io,
        "{}: this is the current folder, or contains it. A folder is replaced as a whole, so write to another one",
        folder.string());
  check(::access(folder.c_str(), W_OK | X_OK) == 0, ErrorKind::io, "{}: cannot be written: {}", folder.string(),
        reason_of(errno));
  if (entries_of(folder).empty()) return;
  check(std::any_of(rules.marks.begin(), rules.marks.end(), [&](auto& mark) { return fs::exists(folder / mark); }),
        ErrorKind::io, "{}: the folder is not empty, and has no {}. Write to a new folder, or remove this one first",
        folder.string(), join(rules.marks, " or "));
  check_one_file_system(folder, status_of(folder).st_dev);
}

// The process that made a temporary folder for `folder`; nothing for another name.
std::optional<pid_t> writer_of(const std::string& name, const fs::path& folder) {
  auto prefix = "." + folder.filename().string() + ".";
  if (!name.starts_with(prefix) || !name.ends_with(kTemporary)) return std::nullopt;
  pid_t process = 0;
  auto [end, error] = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), process);
  return error == std::errc() && *end == '.' && process > 0 ? std::optional(process) : std::nullopt;
}

// Removes the temporary folders of writers that were killed.
void remove_abandoned(const fs::path& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder.parent_path(), ignored)) {
    auto writer = writer_of(entry.path().filename().string(), folder);
    if (!writer || !is_folder(entry) || ::kill(*writer, 0) == 0 || errno != ESRCH) continue;
    // A process of another container has its own numbers, but it holds the lock.
    int lock = ::open(entry.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0) continue;
    if (::flock(lock, LOCK_EX | LOCK_NB) == 0) fs::remove_all(entry.path(), ignored);
    ::close(lock);
  }
}

void sync(const fs::path& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  check(fd >= 0, ErrorKind::io, "{}: {}", path.string(), reason_of(errno));
  int error = ::fsync(fd) == 0 || errno == EINVAL ? 0 : errno;  // EINVAL: see sync_folder_of
  ::close(fd);
  check(error == 0, ErrorKind::io, "{}: cannot be written: {}", path.string(), reason_of(error));
}

enum class Sync { everything, folders };
void sync_tree(const fs::path& folder, Sync what) {
  for (const auto& entry : entries_of(folder)) {
    if (is_folder(entry))
      sync_tree(entry.path(), what);
    else if (what == Sync::everything && entry.is_regular_file())
      sync(entry.path());
  }
  sync(folder);
}

// A second name of a file, or a copy where the file system does not have them.
void link_or_copy(const fs::path& from, const fs::path& to) {
  if (::link(from.c_str(), to.c_str()) == 0) return;
  int error = errno;
  check(error != EXDEV, ErrorKind::io,
        "{}: another file system is mounted here, so the folder around it cannot be replaced", from.string());
  std::error_code failed;
  fs::copy(from, to, fs::copy_options::copy_symlinks, failed);
  check(!failed, ErrorKind::io, "{}: cannot be kept beside the new files: {}", from.string(), reason_of(error));
}

// Turns the exceptions of std::filesystem into Error{io}.
template <class Work>
void io(const fs::path& folder, const Work& work) {
  try {
    work();
  } catch (const fs::filesystem_error& error) {
    fail(ErrorKind::io, "{}: cannot be written: {}", folder.string(), error.code().message());
  }
}

bool exchange(const fs::path& a, const fs::path& b) {
#ifdef SYS_renameat2
  constexpr unsigned kExchange = 2;  // RENAME_EXCHANGE
  if (::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), kExchange) == 0) return true;
  check(errno == ENOSYS || errno == EINVAL, ErrorKind::io, "{}: cannot be replaced: {}", b.string(), reason_of(errno));
#endif
  return false;
}

void move(const fs::path& from, const fs::path& to) {
  check(::rename(from.c_str(), to.c_str()) == 0, ErrorKind::io, "{}: cannot be replaced: {}", to.string(),
        reason_of(errno));
}

}  // namespace

AtomicFolder::AtomicFolder(const fs::path& folder, FolderRules rules)
    : folder_(resolved(folder)), rules_(std::move(rules)) {
  io(folder_, [&] {
    check(!fs::is_symlink(folder_), ErrorKind::io, "{}: is a link to a folder that does not exist", folder.string());
    if (fs::exists(folder_)) check_replaceable(folder_, rules_);
  });
  try {
    io(folder_, [&] { make_parents(); });
    remove_abandoned(folder_);
    auto temporary = temporary_beside(folder_);
    check(::mkdir(temporary.c_str(), 0777) == 0, ErrorKind::io, "{}: cannot be created: {}", folder_.string(),
          reason_of(errno));
    temporary_ = std::move(temporary);
    lock_ = ::open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock_ >= 0) ::flock(lock_, LOCK_EX | LOCK_NB);  // best effort: some file systems have no locks
  } catch (...) {
    remove_temporary();
    throw;
  }
}

AtomicFolder::~AtomicFolder() { remove_temporary(); }

void AtomicFolder::remove_temporary() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  if (lock_ >= 0) ::close(std::exchange(lock_, -1));
  for (auto it = made_parents_.rbegin(); it != made_parents_.rend(); ++it) ::rmdir(it->c_str());
}

void AtomicFolder::make_parents() {
  std::vector<fs::path> missing;
  for (auto parent = folder_.parent_path(); !fs::exists(parent); parent = parent.parent_path())
    missing.push_back(parent);
  for (auto it = missing.rbegin(); it != missing.rend(); ++it) {
    check(::mkdir(it->c_str(), 0777) == 0 || errno == EEXIST, ErrorKind::io, "{}: cannot be created: {}", it->string(),
          reason_of(errno));
    made_parents_.push_back(*it);
  }
}

bool AtomicFolder::replaces_old() const { return fs::exists(folder_) && !fs::is_empty(folder_); }

// Gives the new folder those files of the old one that stay.
void AtomicFolder::take_over(const fs::path& relative, bool beside_new) const {
  for (const auto& entry : entries_of(folder_ / relative)) {
    const auto name = relative / entry.path().filename();
    const auto fresh = temporary_ / name;
    const auto there = fs::symlink_status(fresh);
    if (is_folder(entry)) {
      check(!fs::exists(there) || fs::is_directory(there), ErrorKind::io, "{}: is a folder; wanted a file to write",
            entry.path().string());
      if (!fs::exists(there)) fs::create_directory(fresh, entry.path());
      take_over(name, fs::exists(there));
    } else if (fs::exists(there)) {
      check(!fs::is_directory(there) || entry.is_symlink(), ErrorKind::io, "{}: is a file; wanted a folder to write",
            entry.path().string());
    } else if (!beside_new || !rules_.replaces || !rules_.replaces(name)) {
      link_or_copy(entry.path(), fresh);
    }
  }
}

void AtomicFolder::swap() {
  if (!replaces_old()) return move(temporary_, folder_);
  if (exchange(temporary_, folder_)) return;
  auto away = temporary_;
  away.replace_extension(".old");
  move(folder_, away);
  if (::rename(temporary_.c_str(), folder_.c_str()) != 0) {
    int error = errno;
    ::rename(away.c_str(), folder_.c_str());
    fail(ErrorKind::io, "{}: cannot be replaced: {}", folder_.string(), reason_of(error));
  }
  temporary_ = away;
}

void AtomicFolder::commit() {
  io(folder_, [&] {
    sync_tree(temporary_, Sync::everything);
    if (fs::exists(folder_)) ::chmod(temporary_.c_str(), status_of(folder_).st_mode & 07777);  // best effort
    if (replaces_old()) {
      take_over("", true);
      sync_tree(temporary_, Sync::folders);
    }
    swap();
  });
  made_parents_.clear();
  int error = sync_folder_of(folder_);
  check(error == 0, ErrorKind::io, "{}: written, but its folder cannot be synced: {}", folder_.string(),
        reason_of(error));
  remove_temporary();  // the old folder now
  temporary_.clear();
}

}  // namespace lora
