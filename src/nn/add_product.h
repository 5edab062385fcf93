#pragma once
#include <cstdint>

#include "lora/tensor.h"

namespace lora {

// The dtypes that add_product knows.
bool has_add_product(Dtype dtype);

// to ← from + B A, added up in float32 and rounded once to the dtype of both. Row-major matrices on the CPU: `to` and
// `from` [rows, columns], the same memory or apart; B [rows, rank] and A [rank, columns] float32.
//
// A product of so low a rank is bound by the memory that the large matrix is in: here it is read and written once,
// where a GEMM in bfloat16 or through a temporary in float32 takes several times as long.
void add_product(Dtype dtype, void* to, const void* from, const float* B, const float* A, int64_t rows, int64_t columns,
                 int64_t rank);

}  // namespace lora
