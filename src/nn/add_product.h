#pragma once
#include <cstdint>

#include "lora/tensor.h"

namespace lora {

// Whether add_product() supports a dtype.
bool has_add_product(Dtype dtype);

// Sums over the numbers of a weight W that gets the change Δ and becomes W' = round(W + Δ).
struct ChangeSums {
  double base = 0;         // of W²
  double change = 0;       // of Δ²
  double lost = 0;         // of ((W' − W) − Δ)²
  int64_t not_finite = 0;  // results that are NaN or infinite
  bool changed = false;    // whether a number of W' differs from W

  ChangeSums& operator+=(const ChangeSums& other) {
    base += other.base, change += other.change, lost += other.lost, not_finite += other.not_finite;
    changed |= other.changed;
    return *this;
  }
  double relative() const;  // ‖Δ‖ / ‖W‖; 0 if it is not finite
  double loss() const;      // ‖(W' − W) − Δ‖ / ‖Δ‖, from 0 to 1; 1 for a result with NaN or infinity
};

// The change matrix + B A of a weight [rows, columns]. `matrix` has the size of the weight; nullptr adds nothing. B is
// [rows, rank], A is [rank, columns]. All are row-major.
struct Addend {
  const float *matrix = nullptr, *B = nullptr, *A = nullptr;
  int64_t rank = 0;
};

// to ← from + change. The change is summed in float32, then added and rounded once to `dtype`, the dtype of `to` and
// `from`. Both are row-major [rows, columns] on the CPU. They are the same memory or do not overlap.
//
// At a low rank, memory bandwidth limits the speed. This function reads and writes the large matrix once. A GEMM in
// bfloat16, or with a float32 temporary, takes several times as long.
//
// `sums`, if not nullptr, gets the sums of squares of this change. A large matrix is sampled: an eighth of its tiles,
// in all rows and columns, stands for the rest. This takes no time that can be measured. ChangeSums::changed looks at
// all numbers. Returns whether all results are finite; they are all looked at.
bool add_product(Dtype dtype, void* to, const void* from, const Addend& change, int64_t rows, int64_t columns,
                 ChangeSums* sums = nullptr);

}  // namespace lora
