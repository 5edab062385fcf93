#pragma once
// Reads zip archives of torch: records without compression, ZIP64.
//
// Does not use libtorch's PyTorchStreamReader: that allocates any size that a record claims, and its destructor throws
// if the archive is damaged.
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

namespace lora {

struct ZipRecord {
  uint64_t header = 0;  // position of the local header
  uint64_t stored = 0;  // bytes in the archive
  uint64_t size = 0;    // bytes once unpacked
  bool deflated = false;
};

class ZipFile {
 public:
  // Reads the central directory. `bytes` is the whole file and must outlive the ZipFile. `where` is its name for
  // messages. Throws Error{bad_file, unsupported}.
  ZipFile(std::string_view bytes, std::string where);

  const std::unordered_map<std::string_view, ZipRecord>& records() const { return records_; }
  const ZipRecord* find(const std::string& name) const;

  // The record's bytes in the archive. If it is not deflated, these are its content.
  std::string_view stored(const ZipRecord& record) const;
  // Unpacks a deflated record. All records together may unpack to at most 32 times the file's size. Weights hardly
  // compress: a file that claims more is damaged or hostile.
  std::string inflate(const ZipRecord& record);

 private:
  struct Directory {
    uint64_t records, position, size;
  };
  Directory find_directory() const;
  void read_directory(const Directory& directory);
  void widen(ZipRecord& record, std::string_view extra) const;
  std::string_view slice(uint64_t position, uint64_t size) const;

  std::string_view bytes_;
  std::string where_;
  std::unordered_map<std::string_view, ZipRecord> records_;
  uint64_t inflated_ = 0;
};

}  // namespace lora
