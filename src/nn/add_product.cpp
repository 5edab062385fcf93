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

// No call of these passes a vector, because all of them are inlined.
#pragma GCC diagnostic ignored "-Wpsabi"
#define LORA_INLINE inline __attribute__((always_inline))

LORA_INLINE void load(Floats& to, const float* from) { std::memcpy(&to, from, sizeof(to)); }
LORA_INLINE void store(float* to, const Floats& from) { std::memcpy(to, &from, sizeof(from)); }
// What store() loses: the rounded number minus the number. Its sign does not matter.
LORA_INLINE Floats lost(const float*, const Floats& from) { return from - from; }
// The bits of the smallest magnitude that store() makes infinite.
constexpr uint32_t infinite_from(const float*) { return 0x7F800000; }

LORA_INLINE Words magnitude_of(const Floats& from) { return reinterpret_cast<Words>(from) & 0x7FFFFFFF; }

LORA_INLINE void load(Floats& to, const c10::BFloat16* from) {
  Shorts bits;
  std::memcpy(&bits, from, sizeof(bits));
  to = reinterpret_cast<Floats>(__builtin_convertvector(bits, Words) << 16);
}

LORA_INLINE Words rounded_bits(const Floats& from) {
  auto bits = reinterpret_cast<Words>(from);
  return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}

// Rounds to nearest, ties to even; NaN stays NaN.
LORA_INLINE void store(c10::BFloat16* to, const Floats& from) {
  auto rounded = rounded_bits(from);
  auto shorts = __builtin_convertvector(from == from ? rounded : rounded | 0x40, Shorts);
  std::memcpy(to, &shorts, sizeof(shorts));
}

LORA_INLINE Floats lost(const c10::BFloat16*, const Floats& from) {
  return reinterpret_cast<Floats>(rounded_bits(from) << 16) - from;
}
constexpr uint32_t infinite_from(const c10::BFloat16*) { return 0x7F7F8000; }

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

constexpr uint32_t infinite_from(const c10::Half*) { return 0x477FF000; }  // 65520
constexpr uint32_t kHalfNormal = 113u << 23;                               // 2^-14, the smallest normal half

LORA_INLINE Words normal_half(const Words& magnitude) {
  return (magnitude - ((127 - 15) << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
}

// Rounds to nearest, ties to even. Numbers from 65520 on become infinity.
LORA_INLINE void store(c10::Half* to, const Floats& from) {
  auto sign = (reinterpret_cast<Words>(from) >> 16) & 0x8000, magnitude = magnitude_of(from);
  auto normal = normal_half(magnitude);
  // 0.5 has the same unit in the last place as the denormal numbers, so that adding 0.5 rounds to that unit.
  auto denormal = reinterpret_cast<Words>(reinterpret_cast<Floats>(magnitude) + 0.5f) - 0x3F000000;
  auto rounded = magnitude < kHalfNormal ? denormal : magnitude >= 0x477FF000 ? normal * 0 + 0x7C00 : normal;
  rounded = (from == from ? rounded : normal * 0 + 0x7E00) | sign;
  auto shorts = __builtin_convertvector(rounded, Shorts);
  std::memcpy(to, &shorts, sizeof(shorts));
}

LORA_INLINE Floats lost(const c10::Half*, const Floats& from) {
  auto magnitude = magnitude_of(from);
  auto number = reinterpret_cast<Floats>(magnitude);
  auto normal = reinterpret_cast<Floats>((normal_half(magnitude) << 13) + ((127 - 15) << 23));
  return (magnitude < kHalfNormal ? (number + 0.5f) - 0.5f : normal) - number;
}

// Sums over the numbers of some tiles, by lane.
struct Squares {
  Floats base{}, change{}, lost{};
  Words largest{};      // the magnitudes, of all tiles
  int64_t numbers = 0;  // in the tiles that are measured

  template <class T>
  LORA_INLINE void add(const T* dtype, const Floats& was, const Floats& sum) {
    auto delta = sum - was, error = lora::lost(dtype, sum);
    base += was * was, change += delta * delta, lost += error * error;
  }
  LORA_INLINE void look_at(const Floats& sum) {
    auto magnitude = magnitude_of(sum);
    largest = largest > magnitude ? largest : magnitude;
  }
};

// The same for a matrix.
struct Totals {
  double base = 0, change = 0, lost = 0;
  uint32_t largest = 0;
  int64_t numbers = 0;

  LORA_INLINE void add(const Squares& some) {
    for (int i = 0; i < kLanes; ++i) {
      base += some.base[i], change += some.change[i], lost += some.lost[i];
      largest = std::max(largest, some.largest[i]);
    }
    numbers += some.numbers;
  }
};

template <class T>
struct Problem {
  T* to;
  const T* from;
  const float *B, *A;
  int64_t rows, columns, rank;
  int64_t every;          // one of so many tiles is measured; 0: none
  Totals *tiles, *tails;  // the tiles stand for those that are not measured
};

// Matrices with fewer numbers are measured as a whole. Of others, one of eight tiles.
constexpr int64_t kSampledFrom = 1 << 17, kEvery = 8;
int64_t every_for(int64_t rows, int64_t columns) { return rows * columns < kSampledFrom ? 1 : kEvery; }

// kRows × kWidth·16 elements of the result from (row, column) on. They stay in registers during the loop over the rank.
template <int kRows, int kWidth, bool kMeasured, class T>
LORA_INLINE void tile(const Problem<T>& p, int64_t row, int64_t column, Squares& squares) {
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
    for (int j = 0; j < kWidth; ++j) {
      squares.look_at(sum[i][j]);
      if constexpr (kMeasured) {
        Floats was;
        load(was, p.from + (row + i) * p.columns + column + j * kLanes);
        squares.add(p.to, was, sum[i][j]);
      }
      store(p.to + (row + i) * p.columns + column + j * kLanes, sum[i][j]);
    }
  if constexpr (kMeasured) squares.numbers += kRows * kWidth * kLanes;
}

// A tile, measured if it is one of the sample. The sample is a diagonal pattern.
template <int kRows, int kWidth, class T>
LORA_INLINE void sampled_tile(const Problem<T>& p, int64_t row, int64_t column, Squares& squares) {
  if (p.every > 0 && (row / kRows + column / (kWidth * kLanes)) % p.every == 0)
    tile<kRows, kWidth, true>(p, row, column, squares);
  else
    tile<kRows, kWidth, false>(p, row, column, squares);
}

// The last columns, fewer than a vector has, in a padded vector.
template <class T>
LORA_INLINE void tail(const Problem<T>& p, int64_t row, int64_t column, Squares& squares) {
  auto count = p.columns - column;
  T padded[kLanes] = {};
  float a[kLanes] = {};
  std::copy_n(p.from + row * p.columns + column, count, padded);
  Floats was, sum, factor;
  load(was, padded);
  sum = was;
  for (int64_t k = 0; k < p.rank; ++k) {
    std::copy_n(p.A + k * p.columns + column, count, a);
    load(factor, a);
    sum += p.B[row * p.rank + k] * factor;
  }
  squares.look_at(sum);
  squares.add(p.to, was, sum);  // the padding is 0
  squares.numbers += count;
  store(padded, sum);
  std::copy_n(padded, count, p.to + row * p.columns + column);
}

template <int kRows, int kWidth, class T>
LORA_INLINE void strip(const Problem<T>& p, int64_t row) {
  int64_t column = 0;
  Squares tiles, tails;
  for (; column + kWidth * kLanes <= p.columns; column += kWidth * kLanes)
    sampled_tile<kRows, kWidth>(p, row, column, tiles);
  for (; column + kLanes <= p.columns; column += kLanes) sampled_tile<kRows, 1>(p, row, column, tiles);
  for (int i = 0; column < p.columns && i < kRows; ++i) tail(p, row + i, column, tails);
  p.tiles->add(tiles);
  p.tails->add(tails);
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

// Adds what was measured. The numbers in `sample` stand for `numbers` numbers.
void add_sums(const Totals& sample, int64_t numbers, ChangeSums& sums) {
  if (sample.numbers == 0) return;
  auto factor = double(numbers) / double(sample.numbers);
  sums.base += factor * sample.base, sums.change += factor * sample.change, sums.lost += factor * sample.lost;
}

template <class T>
bool run(void* to, const void* from, const float* B, const float* A, int64_t rows, int64_t columns, int64_t rank,
         ChangeSums* sums) {
  Totals tiles, tails;
  const auto every = sums ? every_for(rows, columns) : 0;
  dispatch(
      Problem<T>{static_cast<T*>(to), static_cast<const T*>(from), B, A, rows, columns, rank, every, &tiles, &tails});
  if (sums) {
    add_sums(tiles, rows * columns - tails.numbers, *sums);
    add_sums(tails, tails.numbers, *sums);
  }
  return std::max(tiles.largest, tails.largest) < infinite_from(static_cast<T*>(nullptr));
}

template <class T>
bool measure(const T* from, const float* sum, int64_t rows, int64_t columns, ChangeSums& sums) {
  Totals totals;
  const auto every = every_for(rows, columns);
  for (int64_t row = 0; row < rows; ++row) {
    Squares squares;
    for (int64_t column = 0; column < columns; column += kLanes) {
      auto count = std::min<int64_t>(kLanes, columns - column);
      T start[kLanes] = {};
      float rounded[kLanes] = {};
      std::copy_n(from + row * columns + column, count, start);
      std::copy_n(sum + row * columns + column, count, rounded);
      Floats was, now;
      load(was, start);
      load(now, rounded);
      squares.look_at(now);
      if ((row + column / kLanes) % every != 0) continue;  // the sample is a diagonal pattern
      squares.add(from, was, now);
      squares.numbers += count;
    }
    totals.add(squares);
  }
  add_sums(totals, rows * columns, sums);
  return totals.largest < infinite_from(from);
}

}  // namespace

bool has_add_product(Dtype dtype) { return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf; }

bool add_product(Dtype dtype, void* to, const void* from, const float* B, const float* A, int64_t rows, int64_t columns,
                 int64_t rank, ChangeSums* sums) {
  if (dtype == at::kFloat) return run<float>(to, from, B, A, rows, columns, rank, sums);
  if (dtype == at::kBFloat16) return run<c10::BFloat16>(to, from, B, A, rows, columns, rank, sums);
  return run<c10::Half>(to, from, B, A, rows, columns, rank, sums);
}

bool measure_rounding(Dtype dtype, const void* from, const float* sum, int64_t rows, int64_t columns,
                      ChangeSums& sums) {
  if (dtype == at::kFloat) return measure(static_cast<const float*>(from), sum, rows, columns, sums);
  if (dtype == at::kBFloat16) return measure(static_cast<const c10::BFloat16*>(from), sum, rows, columns, sums);
  return measure(static_cast<const c10::Half*>(from), sum, rows, columns, sums);
}

}  // namespace lora
