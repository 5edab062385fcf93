#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "core/check.h"
#include "core/json_cursor.h"
#include "core/utf8.h"
#include "io/dtype.h"
#include "io/safetensors.h"

namespace lora {

namespace {

constexpr uint64_t kLength = sizeof(uint64_t);  // the bytes before the header, which hold its length
constexpr uint64_t kMostHeader = 100'000'000;   // the reference library's limit

template <class... Args>
void check_tensor(bool ok, const std::string& where, const SafetensorsEntry& entry, fmt::format_string<Args...> message,
                  Args&&... args) {
  if (!ok) [[unlikely]]
    fail(ErrorKind::bad_file, "{}: tensor \"{}\" {}", where, entry.name,
         fmt::format(message, std::forward<Args>(args)...));
}

// Fills in the header while the cursor walks through the JSON. A value of a kind that the format does not have at that
// place is an error. So nothing nests deeper than the format does.
class HeaderReader {
 public:
  // `text` is the file from its beginning to the end of the header.
  HeaderReader(std::string_view text, const std::string& where)
      : at_(text, where + ": the header", kLength), where_(where) {}

  void read(SafetensorsHeader& header) {
    bool has_metadata = false;
    at_.object([&](std::string_view name) {
      if (name != "__metadata__") return read_tensor(header.entries.emplace_back(std::string(name)));
      check(!std::exchange(has_metadata, true), ErrorKind::bad_file, "{}: the header has __metadata__ twice", where_);
      read_metadata(header.metadata);
    });
    at_.end();
  }

 private:
  void read_metadata(std::map<std::string, std::string>& metadata) {
    if (at_.peek() == 'n' && at_.raw() == "null") return;
    if (at_.peek() != '{')
      fail(ErrorKind::bad_file, "{}: __metadata__ is {}; wanted an object", where_, at_.described());
    at_.object([&](std::string_view key) {
      if (at_.peek() != '"')
        fail(ErrorKind::bad_file, "{}: __metadata__ holds {} under \"{}\"; wanted text", where_, at_.described(), key);
      bool added = metadata.emplace(key, at_.string()).second;
      check(added, ErrorKind::bad_file, "{}: __metadata__ has the key \"{}\" twice", where_, key);
    });
  }

  void read_tensor(SafetensorsEntry& entry) {
    if (at_.peek() != '{') unexpected(entry, "is described by {}; wanted an object");
    bool has_dtype = false, has_shape = false, has_offsets = false;
    auto first = [&](bool& has, std::string_view field) {
      check_tensor(!std::exchange(has, true), where_, entry, "has {} twice", field);
    };
    at_.object([&](std::string_view field) {
      if (field == "dtype") {
        first(has_dtype, field);
        read_dtype(entry);
      } else if (field == "shape") {
        first(has_shape, field);
        read_numbers<int64_t>(entry, "has {} in its shape; wanted a list of sizes from 0",
                              [&](int64_t size) { entry.shape.push_back(size); });
      } else if (field == "data_offsets") {
        first(has_offsets, field);
        read_offsets(entry);
      } else {
        check_tensor(false, where_, entry, "has the field \"{}\"; wanted dtype, shape and data_offsets alone", field);
      }
    });
    check_tensor(has_dtype && has_shape && has_offsets, where_, entry,
                 "does not have all of dtype, shape and data_offsets");
  }

  void read_dtype(SafetensorsEntry& entry) {
    if (at_.peek() != '"') unexpected(entry, "has {} as dtype; wanted a name");
    auto name = at_.string();
    auto dtype = dtype_from_safetensors(name);
    check(dtype.has_value(), ErrorKind::unsupported, "{}: tensor \"{}\" has the dtype {}, which is not supported",
          where_, entry.name, name);
    entry.dtype = *dtype;
  }

  void read_offsets(SafetensorsEntry& entry) {
    size_t count = 0;
    read_numbers<uint64_t>(entry, "has {} in its data_offsets; wanted two positions",
                           [&](uint64_t position) { (count++ == 0 ? entry.begin : entry.end) = position; });
    check_tensor(count == 2, where_, entry, "has data_offsets of length {}; wanted two positions", count);
  }

  // Calls `take` with each number of a list.
  template <class Number, class Take>
  void read_numbers(const SafetensorsEntry& entry, fmt::format_string<std::string> message, Take take) {
    if (at_.peek() != '[') unexpected(entry, message);
    at_.array([&] {
      auto number = at_.peek() == '-' ? std::nullopt : at_.try_integer<Number>();
      if (!number) unexpected(entry, message);
      take(*number);
    });
  }

  [[noreturn]] void unexpected(const SafetensorsEntry& entry, fmt::format_string<std::string> message) {
    fail(ErrorKind::bad_file, "{}: tensor \"{}\" {}", where_, entry.name, fmt::format(message, at_.described()));
  }

  JsonCursor at_;
  const std::string& where_;
};

uint64_t header_length(std::string_view file, const std::string& where) {
  static_assert(std::endian::native == std::endian::little, "the format is little-endian, and read in place");
  check(file.size() >= kLength, ErrorKind::bad_file,
        "{}: has {} bytes; a safetensors file begins with the length of its header, {} bytes", where, file.size(),
        kLength);
  uint64_t length;
  std::memcpy(&length, file.data(), kLength);
  check(length <= kMostHeader, ErrorKind::bad_file, "{}: says its header has {} bytes; the most is {}", where, length,
        kMostHeader);
  check(length <= file.size() - kLength, ErrorKind::bad_file,
        "{}: says its header has {} bytes, but only {} follow; the file is cut off", where, length,
        file.size() - kLength);
  return length;
}

void check_names_differ(const SafetensorsHeader& header, const std::string& where) {
  std::unordered_set<std::string_view> names;
  names.reserve(header.entries.size());
  for (const auto& entry : header.entries)
    check(names.insert(entry.name).second, ErrorKind::bad_file, "{}: the header has tensor \"{}\" twice", where,
          entry.name);
}

// The bytes that shape and dtype make. A size of 0 counts as 1 towards overflow: strides are products of the others.
uint64_t wanted_size(const SafetensorsEntry& entry, const std::string& where) {
  auto size = static_cast<int64_t>(c10::elementSize(entry.dtype));
  bool overflow = false, empty = false;
  for (int64_t n : entry.shape) {
    overflow |= __builtin_mul_overflow(size, std::max<int64_t>(n, 1), &size);
    empty |= n == 0;
  }
  check_tensor(!overflow, where, entry, "has a shape whose product overflows");
  return empty ? 0 : static_cast<uint64_t>(size);
}

void check_layout(const SafetensorsHeader& header, uint64_t data_size, const std::string& where) {
  uint64_t position = 0;
  for (const auto& entry : header.entries) {
    const auto& [name, dtype, shape, begin, end] = entry;
    check_tensor(begin <= end, where, entry, "ends at {}, before it begins at {}", end, begin);
    check_tensor(begin >= position, where, entry, "begins at {}, inside another that ends at {}", begin, position);
    check(begin == position, ErrorKind::bad_file, "{}: {} bytes before tensor \"{}\" belong to no tensor", where,
          begin - position, name);
    uint64_t wanted = wanted_size(entry, where);
    check_tensor(end - begin == wanted, where, entry, "has {} bytes; its shape and dtype make {}", end - begin, wanted);
    check_tensor(end <= data_size, where, entry,
                 "ends at byte {} of the data, but the file has {}; the file is cut off", end, data_size);
    position = end;
  }
  check(position == data_size, ErrorKind::bad_file, "{}: {} bytes after the last tensor belong to no tensor", where,
        data_size - position);
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& where) {
  uint64_t length = header_length(file, where);
  auto text = file.substr(0, kLength + length);
  check(text.substr(kLength).starts_with('{'), ErrorKind::bad_file, "{}: the header does not begin with '{{'", where);
  size_t invalid = find_invalid_utf8(text.substr(kLength));
  check(invalid == text.npos, ErrorKind::bad_file, "{}: the header is not UTF-8 at byte {}", where, kLength + invalid);

  SafetensorsHeader header;
  header.data_start = text.size();
  HeaderReader(text, where).read(header);

  check_names_differ(header, where);
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  check_layout(header, file.size() - header.data_start, where);
  return header;
}

}  // namespace lora
