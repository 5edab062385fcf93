#pragma once
#include <cstdint>

#include "lora/tensor.h"

namespace lora {

// Whether add_product() supports a dtype.
bool has_add_product(Dtype dtype);

// Sums over the numbers of a weight W that gets the change Δ.
struct ChangeSums {
  double base = 0;         // of W²
  double change = 0;       // of Δ²
  double lost = 0;         // of (round(W + Δ) − (W + Δ))²
  int64_t not_finite = 0;  // results that are NaN or infinite

  ChangeSums& operator+=(const ChangeSums& other) {
    base += other.base, change += other.change, lost += other.lost, not_finite += other.not_finite;
    return *this;
  }
};

// to ← from + B A. The sum is made in float32 and rounded once to `dtype`, the dtype of `to` and `from`. All matrices
// are row-major and on the CPU. `to` and `from` are [rows, columns]; they are the same memory or do not overlap. B
// [rows, rank] and A [rank, columns] are float32.
//
// At a low rank, memory bandwidth limits the speed. This function reads and writes the large matrix once. A GEMM in
// bfloat16, or with a float32 temporary, takes several times as long.
//
// `sums`, if not nullptr, gets the sums of squares of this change. A large matrix is sampled: an eighth of its tiles,
// in all rows and columns, stands for the rest. This takes no time that can be measured. Returns whether all results
// are finite; they are all looked at.
bool add_product(Dtype dtype, void* to, const void* from, const float* B, const float* A, int64_t rows, int64_t columns,
                 int64_t rank, ChangeSums* sums = nullptr);

// The same measure for a matrix that is to be rounded: `sum` [rows, columns] is W + Δ in float32, `from` is W. Returns
// whether all results would be finite.
bool measure_rounding(Dtype dtype, const void* from, const float* sum, int64_t rows, int64_t columns, ChangeSums& sums);

}  // namespace lora
