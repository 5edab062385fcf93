#include "io/dtype.h"

#include <fmt/format.h>

#include <iterator>

#include "core/check.h"

namespace lora {

namespace {

struct Row {
  Dtype dtype;
  const char* torch;
  const char* safetensors;
  const char* storage;  // nullptr if torch has no storage class for it
};

// In the order of the reference library's dtypes. Its writer sorts by them.
constexpr Row kRows[] = {
    {at::kBool, "bool", "BOOL", "BoolStorage"},
    {at::kByte, "uint8", "U8", "ByteStorage"},
    {at::kChar, "int8", "I8", "CharStorage"},
    {at::kFloat8_e5m2, "float8_e5m2", "F8_E5M2", nullptr},
    {at::kFloat8_e4m3fn, "float8_e4m3fn", "F8_E4M3", nullptr},
    {at::kFloat8_e8m0fnu, "float8_e8m0fnu", "F8_E8M0", nullptr},
    {at::kFloat8_e4m3fnuz, "float8_e4m3fnuz", "F8_E4M3FNUZ", nullptr},
    {at::kFloat8_e5m2fnuz, "float8_e5m2fnuz", "F8_E5M2FNUZ", nullptr},
    {at::kShort, "int16", "I16", "ShortStorage"},
    {at::kUInt16, "uint16", "U16", nullptr},
    {at::kHalf, "float16", "F16", "HalfStorage"},
    {at::kBFloat16, "bfloat16", "BF16", "BFloat16Storage"},
    {at::kInt, "int32", "I32", "IntStorage"},
    {at::kUInt32, "uint32", "U32", nullptr},
    {at::kFloat, "float32", "F32", "FloatStorage"},
    {at::kComplexFloat, "complex64", "C64", "ComplexFloatStorage"},
    {at::kDouble, "float64", "F64", "DoubleStorage"},
    {at::kLong, "int64", "I64", "LongStorage"},
    {at::kUInt64, "uint64", "U64", nullptr},
};

const Row* find(Dtype dtype) {
  for (const auto& row : kRows)
    if (row.dtype == dtype) return &row;
  return nullptr;
}

std::optional<Dtype> find(const char* Row::*column, std::string_view name) {
  for (const auto& row : kRows)
    if (row.*column && name == row.*column) return row.dtype;
  return std::nullopt;
}

std::optional<std::string> find(const char* Row::*column, Dtype dtype) {
  const Row* row = find(dtype);
  return row && row->*column ? std::optional<std::string>(row->*column) : std::nullopt;
}

}  // namespace

std::string to_string(Dtype dtype) {
  const Row* row = find(dtype);
  return row ? row->torch : c10::toString(dtype);
}

Dtype parse_dtype(std::string_view name) {
  struct Known {
    Dtype dtype;
    std::string_view name, others;
  };
  static constexpr Known kKnown[] = {{at::kFloat, "float32", " fp32 float "},
                                     {at::kBFloat16, "bfloat16", " bf16 "},
                                     {at::kHalf, "float16", " fp16 half "}};
  for (const auto& known : kKnown)
    if (name == known.name) return known.dtype;
  for (const auto& known : kKnown)
    check(name.empty() || known.others.find(fmt::format(" {} ", name)) == known.others.npos, ErrorKind::usage,
          "dtype is \"{}\". Write {}.", name, known.name);
  fail(ErrorKind::usage, "dtype is \"{}\"; wanted float32, bfloat16 or float16", name);
}

std::optional<Dtype> dtype_from_safetensors(std::string_view name) { return find(&Row::safetensors, name); }

std::optional<std::string> dtype_to_safetensors(Dtype dtype) { return find(&Row::safetensors, dtype); }

int safetensors_rank(Dtype dtype) {
  const Row* row = find(dtype);
  return row ? static_cast<int>(row - std::begin(kRows)) : -1;
}

std::optional<Dtype> dtype_from_torch(std::string_view name) { return find(&Row::torch, name); }

std::optional<Dtype> dtype_from_storage(std::string_view name) { return find(&Row::storage, name); }

std::optional<std::string> dtype_to_storage(Dtype dtype) { return find(&Row::storage, dtype); }

}  // namespace lora
