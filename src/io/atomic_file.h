#pragma once
// Writes a file that is never visible in part.
#include <cstdint>
#include <filesystem>
#include <string>

namespace lora {

// Writes go to a temporary file in the same folder. commit() syncs it and renames it to the path. So no reader sees a
// partial file, and mappings of the old file stay intact. Without commit(), the destructor removes the temporary file
// and leaves the path unchanged. The temporary file's name has the process id and random bits: several writers of one
// path do not collide, and the last commit() wins. Every failure is Error{io} with the path and the system's reason.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t size);
  // Replaces bytes that were written before.
  void overwrite(uint64_t position, const void* data, size_t size);
  // The temporary file with all that was written so far: for a check before commit().
  const std::filesystem::path& written();
  void commit();

 private:
  void write_through(const char* data, size_t size);
  void flush();

  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  std::string buffer_;  // gathers small writes
};

// For AtomicFile and AtomicFolder:
// The system's text for an errno.
std::string reason_of(int error);
// A name beside `path` that nothing has: `.NAME.PROCESS.RANDOM.tmp`.
std::filesystem::path temporary_beside(const std::filesystem::path& path);
// Syncs the folder that holds `path`. A rename is on disk only after that. Returns the errno of a failure, or 0. Some
// file systems cannot sync a folder and return EINVAL; that is not a failure.
int sync_folder_of(const std::filesystem::path& path);

}  // namespace lora
