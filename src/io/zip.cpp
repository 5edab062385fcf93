#include "io/zip.h"

#include <zlib.h>

#include <cstring>
#include <memory>

#include "core/check.h"

namespace lora {

namespace {

constexpr uint64_t kMostExpansion = 32;
// Fixed parts of the structures of PKWARE's APPNOTE.
constexpr uint64_t kLocalHeader = 30, kCentralHeader = 46, kEnd = 22, kEnd64 = 56, kLocator64 = 20;
constexpr uint16_t kStored = 0, kDeflated = 8;

template <class T>
T read(std::string_view bytes, size_t position) {
  T value;
  std::memcpy(&value, bytes.data() + position, sizeof value);
  return value;
}

}  // namespace

ZipFile::ZipFile(std::string_view bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {
  read_directory(find_directory());
}

const ZipRecord* ZipFile::find(const std::string& name) const {
  auto row = records_.find(name);
  return row == records_.end() ? nullptr : &row->second;
}

std::string_view ZipFile::stored(const ZipRecord& record) const {
  auto header = slice(record.header, kLocalHeader);
  check(header.starts_with("PK\3\4"), ErrorKind::bad_file, "{}: its zip archive is damaged: no record at byte {}",
        where_, record.header);
  uint64_t names = uint64_t{read<uint16_t>(header, 26)} + read<uint16_t>(header, 28);
  return slice(record.header + kLocalHeader + names, record.stored);
}

std::string ZipFile::inflate(const ZipRecord& record) {
  auto packed = stored(record);
  bool modest = record.size <= kMostExpansion * bytes_.size() - inflated_;
  check(modest, ErrorKind::bad_file, "{}: its compressed records claim more than {} times the file's size", where_,
        kMostExpansion);
  inflated_ += record.size;
  check(packed.size() <= UINT32_MAX && record.size <= UINT32_MAX, ErrorKind::unsupported,
        "{}: has a compressed record of more than 4 GiB; pack it again without compression (zip -0)", where_);

  std::string unpacked(record.size, '\0');
  z_stream stream{};
  check(inflateInit2(&stream, -MAX_WBITS) == Z_OK, ErrorKind::io, "{}: zlib cannot start", where_);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(unpacked.data());
  stream.avail_out = static_cast<uInt>(unpacked.size());
  int status = ::inflate(&stream, Z_FINISH);
  inflateEnd(&stream);
  check(status == Z_STREAM_END && stream.avail_out == 0, ErrorKind::bad_file,
        "{}: its zip archive is damaged: a compressed record cannot be unpacked", where_);
  return unpacked;
}

ZipFile::Directory ZipFile::find_directory() const {
  size_t end = bytes_.rfind("PK\5\6");
  check(end != std::string_view::npos && bytes_.size() - end >= kEnd, ErrorKind::bad_file,
        "{}: begins as a zip archive but has no end; the file is cut off", where_);
  Directory directory{read<uint16_t>(bytes_, end + 10), read<uint32_t>(bytes_, end + 16),
                      read<uint32_t>(bytes_, end + 12)};
  if (end >= kLocator64 && bytes_.substr(end - kLocator64).starts_with("PK\6\7")) {
    auto end64 = slice(read<uint64_t>(bytes_, end - kLocator64 + 8), kEnd64);
    check(end64.starts_with("PK\6\6"), ErrorKind::bad_file, "{}: its zip archive is damaged: no directory", where_);
    directory = {read<uint64_t>(end64, 32), read<uint64_t>(end64, 48), read<uint64_t>(end64, 40)};
  }
  return directory;
}

void ZipFile::read_directory(const Directory& directory) {
  auto rest = slice(directory.position, directory.size);
  check(directory.records <= rest.size() / kCentralHeader, ErrorKind::bad_file,
        "{}: its zip archive is damaged: {} records in a directory of {} bytes", where_, directory.records,
        rest.size());
  for (uint64_t i = 0; i < directory.records; ++i) {
    bool whole = rest.size() >= kCentralHeader && rest.starts_with("PK\1\2");
    uint64_t name = whole ? read<uint16_t>(rest, 28) : 0, extra = whole ? read<uint16_t>(rest, 30) : 0;
    uint64_t size = kCentralHeader + name + extra + (whole ? read<uint16_t>(rest, 32) : 0);
    check(whole && size <= rest.size(), ErrorKind::bad_file,
          "{}: its zip archive is damaged: record {} of {} is not in the directory", where_, i + 1, directory.records);
    ZipRecord record{read<uint32_t>(rest, 42), read<uint32_t>(rest, 20), read<uint32_t>(rest, 24),
                     read<uint16_t>(rest, 10) == kDeflated};
    widen(record, rest.substr(kCentralHeader + name, extra));
    auto title = rest.substr(kCentralHeader, name);
    bool readable = !(read<uint16_t>(rest, 8) & 1) && (record.deflated || read<uint16_t>(rest, 10) == kStored);
    check(readable, ErrorKind::unsupported,
          "{}: record \"{}\" is encrypted, or packed with a method other than deflate", where_, title);
    check(record.deflated || record.stored == record.size, ErrorKind::bad_file,
          "{}: its zip archive is damaged: record \"{}\" has two sizes, {} and {}", where_, title, record.stored,
          record.size);
    check(records_.emplace(title, record).second, ErrorKind::bad_file, "{}: has the record \"{}\" twice", where_,
          title);
    rest.remove_prefix(size);
  }
}

// ZIP64: the true value of a field that is all ones is in the extra data, in this order.
void ZipFile::widen(ZipRecord& record, std::string_view extra) const {
  while (extra.size() >= 4) {
    size_t size = read<uint16_t>(extra, 2);
    auto data = extra.substr(4, size);
    if (read<uint16_t>(extra, 0) == 1)
      for (uint64_t* field : {&record.size, &record.stored, &record.header})
        if (*field == UINT32_MAX && data.size() >= 8) {
          *field = read<uint64_t>(data, 0);
          data.remove_prefix(8);
        }
    extra.remove_prefix(std::min(4 + size, extra.size()));
  }
}

std::string_view ZipFile::slice(uint64_t position, uint64_t size) const {
  check(position <= bytes_.size() && size <= bytes_.size() - position, ErrorKind::bad_file,
        "{}: its zip archive is damaged: {} bytes at {} reach past its end; the file is cut off", where_, size,
        position);
  return bytes_.substr(position, size);
}

}  // namespace lora
