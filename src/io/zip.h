#pragma once
// Zip archives as torch writes them: records stored as they are, ZIP64.
//
// Not libtorch's PyTorchStreamReader: it allocates whatever size a record claims, and its destructor throws on a
// damaged archive.
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
  // Reads the central directory. `bytes` is the whole file, which the ZipFile refers to from then on; `where` its name
  // for messages. Throws Error{bad_file, unsupported}.
  ZipFile(std::string_view bytes, std::string where);

  const std::unordered_map<std::string_view, ZipRecord>& records() const { return records_; }
  const ZipRecord* find(const std::string& name) const;

  // The record's bytes in the archive: its content, unless it is deflated.
  std::string_view stored(const ZipRecord& record) const;
  // Unpacks a deflated record. All records together may unpack to 32 times the file's size: weights hardly compress,
  // and a file that claims otherwise is out for our memory.
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
