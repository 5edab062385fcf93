#include "nn/add_product.h"

#include <ATen/core/TensorBase.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace lora {

namespace {

// Vectors of 16 numbers. The compiler maps them to the registers of the target.
constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint16_t Shorts __attribute__((vector_size(2 * kLanes), aligned(2)));

#define LORA_INLINE inline __attribute__((always_inline))

LORA_INLINE void load(Floats& to, const float* from) { std::memcpy(&to, from, sizeof(to)); }
LORA_INLINE void store(float* to, const Floats& from) { std::memcpy(to, &from, sizeof(from)); }

LORA_INLINE void load(Floats& to, const c10::BFloat16* from) {
  Shorts bits;
  std::memcpy(&bits, from, sizeof(bits));
  to = reinterpret_cast<Floats>(__builtin_convertvector(bits, Words) << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
LORA_INLINE void store(c10::BFloat16* to, const Floats& from) {
  auto bits = reinterpret_cast<Words>(from);
  auto rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  auto shorts = __builtin_convertvector(from == from ? rounded : rounded | 0x40, Shorts);
  std::memcpy(to, &shorts, sizeof(shorts));
}

// Integer arithmetic, because compilers convert vectors of halves one element at a time.
LORA_INLINE void load(Floats& to, const c10::Half* from) {
  Shorts bits;
  std::memcpy(&bits, from, sizeof(bits));
  auto wide = __builtin_convertvector(bits, Words);
  auto sign = (wide & 0x8000) << 16, magnitude = wide & 0x7FFF;
  auto normal = reinterpret_cast<Floats>((magnitude << 13) + ((127 - 15) << 23));
  auto special = reinterpret_cast<Floats>((magnitude << 13) | 0x7F800000);  // infinity and NaN
  auto denormal = __builtin_convertvector(reinterpret_cast<Ints>(magnitude), Floats) * 0x1p-24f;
  to = magnitude >= 0x7C00 ? special : magnitude < 0x400 ? denormal : normal;
  to = reinterpret_cast<Floats>(reinterpret_cast<Words>(to) | sign);
}

// Rounds to nearest, ties to even. Numbers from 65520 on become infinity.
LORA_INLINE void store(c10::Half* to, const Floats& from) {
  auto bits = reinterpret_cast<Words>(from);
  auto sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7FFFFFFF;
  auto normal = (magnitude - ((127 - 15) << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
  // 0.5 has the same unit in the last place as the denormal numbers, so that adding 0.5 rounds to that unit.
  auto denormal = reinterpret_cast<Words>(reinterpret_cast<Floats>(magnitude) + 0.5f) - 0x3F000000;
  auto rounded = magnitude < (113u << 23) ? denormal : magnitude >= 0x477FF000 ? normal * 0 + 0x7C00 : normal;
  rounded = (from == from ? rounded : normal * 0 + 0x7E00) | sign;
  auto shorts = __builtin_convertvector(rounded, Shorts);
  std::memcpy(to, &shorts, sizeof(shorts));
}

template <class T>
struct Problem {
  T* to;
  const T* from;
  const float *B, *A;
  int64_t rows, columns, rank;
};

// kRows × kWidth·16 elements of the result from (row, column) on. They stay in registers during the loop over the rank.
template <int kRows, int kWidth, class T>
LORA_INLINE void tile(const Problem<T>& p, int64_t row, int64_t column) {
  // Prefetches later tiles. Without this, the memory would be idle during the loop over the rank.
  constexpr int kAhead = 8 * kWidth * kLanes, kLine = 64 / sizeof(T);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kWidth * kLanes; j += kLine)
      __builtin_prefetch(p.from + (row + i) * p.columns + column + kAhead + j);
  Floats sum[kRows][kWidth];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kWidth; ++j) load(sum[i][j], p.from + (row + i) * p.columns + column + j * kLanes);
  for (int64_t k = 0; k < p.rank; ++k) {
    Floats a[kWidth];
#pragma GCC unroll 16
    for (int j = 0; j < kWidth; ++j) load(a[j], p.A + k * p.columns + column + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) sum[i][j] += p.B[(row + i) * p.rank + k] * a[j];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kWidth; ++j) store(p.to + (row + i) * p.columns + column + j * kLanes, sum[i][j]);
}

// The last columns, fewer than a vector has, in a padded vector.
template <class T>
LORA_INLINE void tail(const Problem<T>& p, int64_t row, int64_t column) {
  auto count = p.columns - column;
  T padded[kLanes] = {};
  float a[kLanes] = {};
  std::copy_n(p.from + row * p.columns + column, count, padded);
  Floats sum, factor;
  load(sum, padded);
  for (int64_t k = 0; k < p.rank; ++k) {
    std::copy_n(p.A + k * p.columns + column, count, a);
    load(factor, a);
    sum += p.B[row * p.rank + k] * factor;
  }
  store(padded, sum);
  std::copy_n(padded, count, p.to + row * p.columns + column);
}

template <int kRows, int kWidth, class T>
LORA_INLINE void strip(const Problem<T>& p, int64_t row) {
  int64_t column = 0;
  for (; column + kWidth * kLanes <= p.columns; column += kWidth * kLanes) tile<kRows, kWidth>(p, row, column);
  for (; column + kLanes <= p.columns; column += kLanes) tile<kRows, 1>(p, row, column);
  for (int i = 0; column < p.columns && i < kRows; ++i) tail(p, row + i, column);
}

template <int kRows, int kWidth, class T>
LORA_INLINE void sweep(const Problem<T>& p) {
  int64_t row = 0;
  for (; row + kRows <= p.rows; row += kRows) strip<kRows, kWidth>(p, row);
  for (; row < p.rows; ++row) strip<1, kWidth>(p, row);
}

// The tile sizes fit the number of registers: 32 for AVX512, 16 for AVX2 and for the rest.
#if defined(__x86_64__)
template <class T>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))) void sweep_avx512(const Problem<T>& p) {
  sweep<8, 2>(p);
}
template <class T>
__attribute__((target("avx2,fma"))) void sweep_avx2(const Problem<T>& p) {
  sweep<4, 1>(p);
}
#endif

template <class T>
void dispatch(const Problem<T>& p) {
#if defined(__x86_64__)
  static const bool avx512 =
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx512) return sweep_avx512(p);
  if (avx2) return sweep_avx2(p);
#endif
  sweep<4, 1>(p);
}

template <class T>
void run(void* to, const void* from, const float* B, const float* A, int64_t rows, int64_t columns, int64_t rank) {
  dispatch(Problem<T>{static_cast<T*>(to), static_cast<const T*>(from), B, A, rows, columns, rank});
}

}  // namespace

bool has_add_product(Dtype dtype) { return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf; }

void add_product(Dtype dtype, void* to, const void* from, const float* B, const float* A, int64_t rows, int64_t columns,
                 int64_t rank) {
  if (dtype == at::kFloat) return run<float>(to, from, B, A, rows, columns, rank);
  if (dtype == at::kBFloat16) return run<c10::BFloat16>(to, from, B, A, rows, columns, rank);
  run<c10::Half>(to, from, B, A, rows, columns, rank);
}

}  // namespace lora
