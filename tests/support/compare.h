#pragma once
// Comparing tensors in tests.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "lora/error.h"
#include "lora/tensor.h"
#include "support/folder.h"

namespace lora {

inline std::filesystem::path test_data() { return std::filesystem::path(LORA_SOURCE_DIR) / "tests" / "data"; }
inline std::filesystem::path embedded_models() { return std::filesystem::path(LORA_SOURCE_DIR) / "models"; }

// Largest difference over the largest value of what is wanted.
inline double distance(const Tensor& got, const Tensor& wanted) {
  EXPECT_EQ(got.sizes(), wanted.sizes());
  auto g = got.to(at::kDouble), w = wanted.to(at::kDouble);
  return ((g - w).abs().max() / w.abs().max()).item<double>();
}

inline void expect_close(const Tensor& got, const Tensor& wanted, double tolerance) {
  EXPECT_LE(distance(got, wanted), tolerance);
}

// The same bits, NaNs included.
inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         at::equal(a.reshape(-1).view(at::kByte), b.reshape(-1).view(at::kByte));
}

// The message of the lora::Error of that kind that `work` throws.
template <class Work>
std::string error_of(ErrorKind kind, Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_STREQ(to_string(error.kind()), to_string(kind)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace lora
