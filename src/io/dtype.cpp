#include "io/dtype.h"

#include "core/check.h"

namespace lora {

namespace {

struct Row {
  Dtype dtype;
  const char* torch;
  const char* safetensors;  // nullptr where the format has none
};

constexpr Row kRows[] = {
    {at::kBool, "bool", "BOOL"},
    {at::kByte, "uint8", "U8"},
    {at::kChar, "int8", "I8"},
    {at::kShort, "int16", "I16"},
    {at::kUInt16, "uint16", "U16"},
    {at::kInt, "int32", "I32"},
    {at::kUInt32, "uint32", "U32"},
    {at::kLong, "int64", "I64"},
    {at::kUInt64, "uint64", "U64"},
    {at::kHalf, "float16", "F16"},
    {at::kBFloat16, "bfloat16", "BF16"},
    {at::kFloat, "float32", "F32"},
    {at::kDouble, "float64", "F64"},
    {at::kComplexFloat, "complex64", "C64"},
    {at::kFloat8_e4m3fn, "float8_e4m3fn", "F8_E4M3"},
    {at::kFloat8_e5m2, "float8_e5m2", "F8_E5M2"},
    {at::kFloat8_e4m3fnuz, "float8_e4m3fnuz", "F8_E4M3FNUZ"},
    {at::kFloat8_e5m2fnuz, "float8_e5m2fnuz", "F8_E5M2FNUZ"},
    {at::kFloat8_e8m0fnu, "float8_e8m0fnu", "F8_E8M0"},
};

}  // namespace

std::string to_string(Dtype dtype) {
  for (const auto& row : kRows)
    if (row.dtype == dtype) return row.torch;
  return c10::toString(dtype);
}

Dtype parse_dtype(const std::string& name) {
  for (const auto& row : kRows)
    if (name == row.torch && (row.dtype == at::kFloat || row.dtype == at::kHalf || row.dtype == at::kBFloat16)) return row.dtype;
  fail(ErrorKind::usage, "dtype \"{}\" is none of float32, float16, bfloat16", name);
}

std::optional<Dtype> dtype_from_safetensors(std::string_view name) {
  for (const auto& row : kRows)
    if (row.safetensors && name == row.safetensors) return row.dtype;
  return std::nullopt;
}

std::string dtype_to_safetensors(Dtype dtype) {
  for (const auto& row : kRows)
    if (row.dtype == dtype && row.safetensors) return row.safetensors;
  fail(ErrorKind::unsupported, "the safetensors format has no dtype {}", to_string(dtype));
}

}  // namespace lora
