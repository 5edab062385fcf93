#pragma once
// Reads Python pickles as data. The reader makes only plain values and descriptions of tensors. It never calls anything
// that a pickle names.
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "lora/tensor.h"

namespace lora {

struct PickleValue;

struct PickleNone {};
struct PickleBytes {
  std::string_view data;
};
// An integer too large for int64, little-endian two's complement.
struct PickleBigInt {
  std::string_view data;
};
struct PickleList {
  enum class Kind { list, tuple, set } kind = Kind::list;
  std::vector<PickleValue*> items;
};
struct PickleDict {
  std::vector<std::pair<PickleValue*, PickleValue*>> items;  // a later key replaces an equal earlier one
};
// The name of a class or function. As a key or a value, it is skipped. A call of it is an error.
struct PickleGlobal {
  std::string_view module, name;
};
// A part of a storage. The storage's bytes are elsewhere in the file.
struct PickleStorage {
  std::string_view key;
  Dtype dtype = at::kByte;  // kByte also for a storage without a dtype of its own
  bool untyped = false;
  int64_t numel = 0;   // of the whole storage, in elements of dtype
  int64_t offset = 0;  // in bytes: where the part begins
  int64_t nbytes = 0;  // of the part
};
// Checked: sizes, strides and offset stay within the storage.
struct PickleTensor {
  const PickleStorage* storage = nullptr;
  Dtype dtype = at::kFloat;
  int64_t offset = 0;  // in elements, from the beginning of the part
  std::vector<int64_t> sizes, strides;
};

struct PickleValue {
  std::variant<PickleNone, bool, int64_t, double, std::string_view, PickleBytes, PickleBigInt, PickleList, PickleDict,
               PickleGlobal, const PickleStorage*, const PickleTensor*>
      data;
  template <class T>
  const T* as() const {
    return std::get_if<T>(&data);
  }
};

// The values of one pickle. Values refer to each other, also in cycles. So this object owns them all: deep nesting
// costs no stack, and cycles do not leak. Text and bytes point into the bytes that were read.
struct Pickle {
  std::deque<PickleValue> values;
  std::deque<PickleStorage> storages;
  std::deque<PickleTensor> tensors;
  std::deque<std::string> texts;  // texts that are not in the file in this form
  const PickleValue* root = nullptr;
  size_t size = 0;  // bytes from the start to the end of the STOP opcode
};

// Reads the pickle at the beginning of `bytes`, of protocol 2 to 5. `where` is the file's name for messages. Throws
// Error{bad_file} if the pickle is malformed, Error{unsupported} if it makes anything but tensors and plain values.
Pickle unpickle(std::string_view bytes, const std::string& where);

}  // namespace lora
