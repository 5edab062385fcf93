#pragma once
// Python pickles, read as data. The reader builds plain values and descriptions of tensors; nothing else that a pickle
// may ask for is ever made, and nothing is called.
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
// The name of a class or function. Inert: as a key or a value it is passed over; calling it is an error.
struct PickleGlobal {
  std::string_view module, name;
};
// A stretch of a storage that lies elsewhere in the file.
struct PickleStorage {
  std::string_view key;
  Dtype dtype = at::kByte;  // kByte also for a storage without a dtype of its own
  bool untyped = false;
  int64_t numel = 0;   // of the whole storage, in elements of dtype
  int64_t offset = 0;  // in bytes: where the stretch begins
  int64_t nbytes = 0;  // of the stretch
};
// Checked: sizes, strides and offset stay within the storage.
struct PickleTensor {
  const PickleStorage* storage = nullptr;
  Dtype dtype = at::kFloat;
  int64_t offset = 0;  // in elements, from where the stretch begins
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

// One pickle's values. Values refer to each other, in cycles too, so they are owned here and not by one another: deep
// nesting costs no stack, and cycles do not leak. Text and bytes point into the bytes that were read.
struct Pickle {
  std::deque<PickleValue> values;
  std::deque<PickleStorage> storages;
  std::deque<PickleTensor> tensors;
  std::deque<std::string> texts;  // those that are not in the file as they are
  const PickleValue* root = nullptr;
  size_t size = 0;  // bytes from the start to the end of the STOP opcode
};

// Reads the pickle that `bytes` begin with; protocols 2 to 5. `where` is the file's name for messages. Throws
// Error{bad_file} for a malformed pickle, Error{unsupported} for one that would build anything but tensors and plain
// values.
Pickle unpickle(std::string_view bytes, const std::string& where);

}  // namespace lora
