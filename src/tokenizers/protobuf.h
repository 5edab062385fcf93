#pragma once
// Reads protocol buffers: the parts of the format that SentencePiece's files use.
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "core/check.h"

namespace lora {

class Protobuf {
 public:
  // `bytes` must outlive the reader and the fields. `source` names the file in messages.
  Protobuf(std::string_view bytes, std::string source) : bytes_(bytes), source_(std::move(source)) {}

  struct Field {
    uint64_t number = 0;
    uint64_t integer = 0;    // the value of a number; of a float, its bits
    std::string_view bytes;  // the content of a text, a message or raw bytes

    float as_float() const {
      float value;
      auto bits = static_cast<uint32_t>(integer);
      std::memcpy(&value, &bits, sizeof value);
      return value;
    }
  };

  // Calls `take(field)` for each field, in the order of the file. Throws Error{bad_file} if the bytes are not a
  // message.
  template <class Take>
  void fields(Take take) {
    while (!bytes_.empty()) take(next());
  }

 private:
  Field next() {
    enum Wire : uint64_t { varint_value = 0, eight_bytes = 1, sized = 2, four_bytes = 5 };
    auto key = varint();
    Field field{.number = key >> 3};
    switch (key & 7) {
      case varint_value: field.integer = varint(); break;
      case eight_bytes: field.integer = fixed(8); break;
      case sized: field.bytes = take(varint()); break;
      case four_bytes: field.integer = fixed(4); break;
      default: wrong();
    }
    return field;
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    wrong();
  }

  uint64_t fixed(size_t size) {
    uint64_t value = 0;
    std::memcpy(&value, take(size).data(), size);
    return value;
  }

  std::string_view take(uint64_t size) {
    if (size > bytes_.size()) wrong();
    auto taken = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return taken;
  }

  [[noreturn]] void wrong() const {
    fail(ErrorKind::bad_file, "{}: is not a protocol buffer, or is cut short", source_);
  }

  std::string_view bytes_;
  std::string source_;
};

}  // namespace lora
