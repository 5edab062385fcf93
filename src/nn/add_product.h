#pragma once
#include <cstdint>

#include "lora/tensor.h"

namespace lora {

// Whether add_product() supports a dtype.
bool has_add_product(Dtype dtype);

// to ← from + B A. The sum is made in float32 and rounded once to `dtype`, the dtype of `to` and `from`. All matrices
// are row-major and on the CPU. `to` and `from` are [rows, columns]; they are the same memory or do not overlap. B
// [rows, rank] and A [rank, columns] are float32.
//
// At a low rank, memory bandwidth limits the speed. This function reads and writes the large matrix once. A GEMM in
// bfloat16, or with a float32 temporary, takes several times as long.
void add_product(Dtype dtype, void* to, const void* from, const float* B, const float* A, int64_t rows, int64_t columns,
                 int64_t rank);

}  // namespace lora
