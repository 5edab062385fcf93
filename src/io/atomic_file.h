#pragma once
// A file that appears whole or not at all.
#include <cstdint>
#include <filesystem>
#include <string>

namespace lora {

// Writes go to a temporary sibling; commit() syncs it and renames it over the path, so that no reader ever sees a
// partial file and mappings of the old one stay intact. Destroyed without commit(), it removes the temporary and leaves
// the path as it was. The name of the temporary holds process id and random bits: writers of one path do not collide,
// the last to commit wins. Every failure is Error{io} with the path and the system's reason.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t size);
  // Replaces bytes that were written before.
  void overwrite(uint64_t position, const void* data, size_t size);
  void commit();

 private:
  void write_through(const char* data, size_t size);
  void flush();

  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  std::string buffer_;  // gathers small writes
};

}  // namespace lora
