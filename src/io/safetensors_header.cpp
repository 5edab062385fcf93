#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <unordered_set>

#include "core/check.h"
#include "io/dtype.h"
#include "io/json_file.h"
#include "io/safetensors.h"

namespace lora {

namespace {

constexpr uint64_t kMostHeader = 100'000'000;  // the reference library's limit

// Builds the header while the parser walks the JSON, so that no tree of it is ever made. Every event in a place where
// the format has no such value ends the parse with a message.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(SafetensorsHeader& header, const std::string& where) : header_(header), where_(where) {}

  bool null() override { return place_ == Place::metadata_start ? enter(Place::root) : unexpected("null"); }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool number_integer(int64_t value) override { return unexpected(std::to_string(value)); }
  bool number_float(double, const std::string& text) override { return unexpected(text); }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(uint64_t value) override {
    if (place_ == Place::shape) {
      check(value <= INT64_MAX, ErrorKind::bad_file,
            "{}: tensor \"{}\" has the size {} in its shape, which no tensor has", where_, entry().name, value);
      entry().shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::offsets && offsets_ < 2) {
      (offsets_++ == 0 ? entry().begin : entry().end) = value;
      return true;
    }
    return unexpected(std::to_string(value));
  }

  bool string(std::string& value) override {
    if (place_ == Place::metadata) {
      auto added = header_.metadata.emplace(key_, std::move(value)).second;
      check(added, ErrorKind::bad_file, "{}: __metadata__ has the key \"{}\" twice", where_, key_);
      return true;
    }
    if (place_ != Place::dtype) return unexpected("text");
    auto dtype = dtype_from_safetensors(value);
    check(dtype.has_value(), ErrorKind::unsupported, "{}: tensor \"{}\" has the dtype {}, which is not supported",
          where_, entry().name, value);
    entry().dtype = *dtype;
    return enter(Place::tensor);
  }

  bool start_object(size_t) override {
    switch (place_) {
      case Place::start: return enter(Place::root);
      case Place::metadata_start: return enter(Place::metadata);
      case Place::tensor_start: seen_ = 0; return enter(Place::tensor);
      default: return unexpected("an object");
    }
  }

  bool key(std::string& name) override {
    if (place_ == Place::root) return root_key(name);
    if (place_ == Place::metadata) return key_ = std::move(name), true;
    return tensor_key(name);
  }

  bool end_object() override {
    if (place_ == Place::tensor)
      check(seen_ == kAllSeen, ErrorKind::bad_file, "{}: tensor \"{}\" lacks one of dtype, shape and data_offsets",
            where_, entry().name);
    return enter(place_ == Place::root ? Place::end : Place::root);
  }

  bool start_array(size_t) override {
    if (place_ == Place::shape_start) return enter(Place::shape);
    if (place_ == Place::offsets_start) return offsets_ = 0, enter(Place::offsets);
    return unexpected("a list");
  }

  bool end_array() override {
    if (place_ == Place::offsets && offsets_ != 2) return unexpected("a list of fewer than two numbers");
    return enter(Place::tensor);
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) override {
    fail(ErrorKind::bad_file, "{}: the header is not JSON in UTF-8, at byte {} of the file: {}", where_, 8 + position,
         json_reason(error));
  }

 private:
  enum class Place {
    start,
    root,
    metadata_start,
    metadata,
    tensor_start,
    tensor,
    dtype,
    shape_start,
    shape,
    offsets_start,
    offsets,
    end
  };
  enum Seen : unsigned { kDtype = 1, kShape = 2, kOffsets = 4, kAllSeen = 7 };

  bool enter(Place place) {
    place_ = place;
    return true;
  }

  bool root_key(std::string& name) {
    if (name == "__metadata__") {
      check(!std::exchange(has_metadata_, true), ErrorKind::bad_file, "{}: the header has __metadata__ twice", where_);
      return enter(Place::metadata_start);
    }
    header_.entries.emplace_back().name = std::move(name);
    return enter(Place::tensor_start);
  }

  bool tensor_key(const std::string& name) {
    auto field = [&](Seen bit, Place place) {
      check(!(seen_ & bit), ErrorKind::bad_file, "{}: tensor \"{}\" has {} twice", where_, entry().name, name);
      seen_ |= bit;
      return enter(place);
    };
    if (name == "dtype") return field(kDtype, Place::dtype);
    if (name == "shape") return field(kShape, Place::shape_start);
    if (name == "data_offsets") return field(kOffsets, Place::offsets_start);
    fail(ErrorKind::bad_file, "{}: tensor \"{}\" has the field \"{}\"; wanted dtype, shape and data_offsets alone",
         where_, entry().name, name);
  }

  [[noreturn]] bool unexpected(const std::string& what) {
    switch (place_) {
      case Place::metadata_start: fail(ErrorKind::bad_file, "{}: __metadata__ is {}; wanted an object", where_, what);
      case Place::metadata:
        fail(ErrorKind::bad_file, "{}: __metadata__ holds {} under \"{}\"; wanted text", where_, what, key_);
      case Place::tensor_start:
        fail(ErrorKind::bad_file, "{}: tensor \"{}\" is described by {}; wanted an object", where_, entry().name, what);
      case Place::dtype:
        fail(ErrorKind::bad_file, "{}: tensor \"{}\" has {} as dtype; wanted a name", where_, entry().name, what);
      case Place::shape_start:
      case Place::shape:
        fail(ErrorKind::bad_file, "{}: tensor \"{}\" has {} in its shape; wanted a list of sizes from 0", where_,
             entry().name, what);
      case Place::offsets_start:
      case Place::offsets:
        fail(ErrorKind::bad_file, "{}: tensor \"{}\" has {} in its data_offsets; wanted two positions", where_,
             entry().name, what);
      default: fail(ErrorKind::bad_file, "{}: the header is {}; wanted an object", where_, what);
    }
  }

  SafetensorsEntry& entry() { return header_.entries.back(); }

  SafetensorsHeader& header_;
  const std::string& where_;
  Place place_ = Place::start;
  bool has_metadata_ = false;
  std::string key_;       // in __metadata__
  unsigned seen_ = 0;     // fields of the tensor
  unsigned offsets_ = 0;  // numbers read of its data_offsets
};

uint64_t header_length(std::string_view file, const std::string& where) {
  static_assert(std::endian::native == std::endian::little, "the format is little-endian, and read in place");
  check(file.size() >= 8, ErrorKind::bad_file, "{}: has {} bytes; a safetensors file begins with 8 of header length",
        where, file.size());
  uint64_t length;
  std::memcpy(&length, file.data(), 8);
  check(length <= kMostHeader, ErrorKind::bad_file, "{}: says its header has {} bytes; the most is {}", where, length,
        kMostHeader);
  check(length <= file.size() - 8, ErrorKind::bad_file,
        "{}: says its header has {} bytes, but only {} follow; the file is cut off", where, length, file.size() - 8);
  return length;
}

void check_names_differ(const SafetensorsHeader& header, const std::string& where) {
  std::unordered_set<std::string_view> names;
  names.reserve(header.entries.size());
  for (const auto& entry : header.entries)
    check(names.insert(entry.name).second, ErrorKind::bad_file, "{}: the header has tensor \"{}\" twice", where,
          entry.name);
}

// The bytes that shape and dtype make. Sizes of 0 count as 1 towards overflow, for strides are products of the others.
uint64_t wanted_size(const SafetensorsEntry& entry, const std::string& where) {
  auto size = static_cast<int64_t>(c10::elementSize(entry.dtype));
  bool overflow = false, empty = false;
  for (int64_t n : entry.shape) {
    overflow |= __builtin_mul_overflow(size, std::max<int64_t>(n, 1), &size);
    empty |= n == 0;
  }
  check(!overflow, ErrorKind::bad_file, "{}: tensor \"{}\" has a shape whose product overflows", where, entry.name);
  return empty ? 0 : static_cast<uint64_t>(size);
}

void check_layout(const SafetensorsHeader& header, uint64_t data_size, const std::string& where) {
  uint64_t position = 0;
  for (const auto& entry : header.entries) {
    check(entry.begin <= entry.end, ErrorKind::bad_file, "{}: tensor \"{}\" ends at {}, before it begins at {}", where,
          entry.name, entry.end, entry.begin);
    check(entry.begin >= position, ErrorKind::bad_file,
          "{}: tensor \"{}\" begins at {}, inside another that ends at {}", where, entry.name, entry.begin, position);
    check(entry.begin == position, ErrorKind::bad_file, "{}: {} bytes before tensor \"{}\" belong to no tensor", where,
          entry.begin - position, entry.name);
    uint64_t wanted = wanted_size(entry, where);
    check(entry.end - entry.begin == wanted, ErrorKind::bad_file,
          "{}: tensor \"{}\" has {} bytes; its shape and dtype make {}", where, entry.name, entry.end - entry.begin,
          wanted);
    check(entry.end <= data_size, ErrorKind::bad_file,
          "{}: tensor \"{}\" ends at byte {} of the data, but the file has {}; the file is cut off", where, entry.name,
          entry.end, data_size);
    position = entry.end;
  }
  check(position == data_size, ErrorKind::bad_file, "{}: {} bytes after the last tensor belong to no tensor", where,
        data_size - position);
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& where) {
  uint64_t length = header_length(file, where);
  auto text = file.substr(8, length);
  check(text.starts_with('{'), ErrorKind::bad_file, "{}: the header does not begin with '{{'", where);

  // The parser takes a NUL for the end of its input, and would leave what follows unread.
  size_t nul = text.find('\0');
  check(nul == text.npos, ErrorKind::bad_file, "{}: the header is not JSON in UTF-8, at byte {} of the file: a NUL",
        where, 8 + nul);

  SafetensorsHeader header;
  header.data_start = 8 + length;
  HeaderReader reader(header, where);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);

  check_names_differ(header, where);
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  check_layout(header, file.size() - header.data_start, where);
  return header;
}

}  // namespace lora
