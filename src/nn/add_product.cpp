#include "nn/add_product.h"

#include <ATen/core/TensorBase.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace lora {

namespace {

// Vectors of 16 numbers. The compiler maps them to the registers of the target.
constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint16_t Shorts __attribute__((vector_size(2 * kLanes), aligned(2)));
typedef double Doubles __attribute__((vector_size(8 * kLanes), aligned(8)));

// The bits of 16 numbers of a dtype.
template <class T>
struct BitsOf {
  using Vector = Shorts;
};
template <>
struct BitsOf<float> {
  using Vector = Words;
};
template <class T>
using Bits = typename BitsOf<T>::Vector;

// No call of these passes a vector, because all of them are inlined.
#pragma GCC diagnostic ignored "-Wpsabi"
#define LORA_INLINE inline __attribute__((always_inline))

LORA_INLINE Words magnitude_of(const Floats& from) { return reinterpret_cast<Words>(from) & 0x7FFFFFFF; }

// decoded() widens numbers of a dtype to float32. encoded() rounds to nearest, ties to even; NaN stays NaN.
// infinite_from() has the bits of the smallest magnitude that encoded() makes infinite.
LORA_INLINE Floats decoded(const float*, const Words& bits) { return reinterpret_cast<Floats>(bits); }
LORA_INLINE Words encoded(const float*, const Floats& from) { return reinterpret_cast<Words>(from); }
constexpr uint32_t infinite_from(const float*) { return 0x7F800000; }

LORA_INLINE Floats decoded(const c10::BFloat16*, const Shorts& bits) {
  return reinterpret_cast<Floats>(__builtin_convertvector(bits, Words) << 16);
}
LORA_INLINE Shorts encoded(const c10::BFloat16*, const Floats& from) {
  auto bits = reinterpret_cast<Words>(from);
  auto rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return __builtin_convertvector(from == from ? rounded : rounded | 0x40, Shorts);
}
constexpr uint32_t infinite_from(const c10::BFloat16*) { return 0x7F7F8000; }

// Integer arithmetic, because compilers convert vectors of halves one element at a time.
LORA_INLINE Floats decoded(const c10::Half*, const Shorts& bits) {
  auto wide = __builtin_convertvector(bits, Words);
  auto sign = (wide & 0x8000) << 16, magnitude = wide & 0x7FFF;
  auto normal = reinterpret_cast<Floats>((magnitude << 13) + ((127 - 15) << 23));
  auto special = reinterpret_cast<Floats>((magnitude << 13) | 0x7F800000);  // infinity and NaN
  auto denormal = __builtin_convertvector(reinterpret_cast<Ints>(magnitude), Floats) * 0x1p-24f;
  auto number = magnitude >= 0x7C00 ? special : magnitude < 0x400 ? denormal : normal;
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(number) | sign);
}

constexpr uint32_t infinite_from(const c10::Half*) { return 0x477FF000; }  // 65520
constexpr uint32_t kHalfNormal = 113u << 23;                               // 2^-14, the smallest normal half

// Numbers from 65520 on become infinity.
LORA_INLINE Shorts encoded(const c10::Half*, const Floats& from) {
  auto sign = (reinterpret_cast<Words>(from) >> 16) & 0x8000, magnitude = magnitude_of(from);
  auto normal = (magnitude - ((127 - 15) << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
  // 0.5 has the same unit in the last place as the denormal numbers, so that adding 0.5 rounds to that unit.
  auto denormal = reinterpret_cast<Words>(reinterpret_cast<Floats>(magnitude) + 0.5f) - 0x3F000000;
  auto rounded = magnitude < kHalfNormal ? denormal : magnitude >= 0x477FF000 ? normal * 0 + 0x7C00 : normal;
  rounded = (from == from ? rounded : normal * 0 + 0x7E00) | sign;
  return __builtin_convertvector(rounded, Shorts);
}

// Copies 16 numbers, or their bits.
template <class Vector, class T>
LORA_INLINE void load(Vector& to, const T* from) {
  std::memcpy(&to, from, sizeof(to));
}
template <class Vector, class T>
LORA_INLINE void store(T* to, const Vector& from) {
  std::memcpy(to, &from, sizeof(from));
}

// Sums over the numbers of one tile, by lane. The changes are divided by a power of two for each lane. Without this,
// their squares could be 0 or infinite in float32.
struct TileSquares {
  Floats base{}, change{}, lost{};
  Words exponent{};  // the bits of that power of two

  template <int kRows, int kWidth>
  LORA_INLINE explicit TileSquares(const Floats (&delta)[kRows][kWidth]) {
    constexpr uint32_t kLeast = 1u << 23, kGreatest = 253u << 23;  // their inverses are normal numbers too
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) {
        auto magnitude = magnitude_of(delta[i][j]);
        exponent = exponent > magnitude ? exponent : magnitude;
      }
    exponent &= 0x7F800000;
    exponent = exponent < kLeast ? exponent * 0 + kLeast : exponent > kGreatest ? exponent * 0 + kGreatest : exponent;
  }
  LORA_INLINE void add(const Floats& was, const Floats& delta, const Floats& now) {
    auto inverse = reinterpret_cast<Floats>((254u << 23) - exponent);
    auto part = delta * inverse, error = (now - was - delta) * inverse;
    base += was * was, change += part * part, lost += error * error;
  }
};

// Sums over the numbers of some tiles, by lane.
template <class T>
struct Squares {
  Doubles base{}, change{}, lost{};
  Words largest{};        // the magnitudes, of all tiles
  Bits<T> differences{};  // the bits that differ from those before, of all tiles
  int64_t numbers = 0;    // in the tiles that are measured

  LORA_INLINE void add(const TileSquares& tile, int64_t count) {
    auto power = __builtin_convertvector(reinterpret_cast<Floats>(tile.exponent), Doubles), square = power * power;
    base += __builtin_convertvector(tile.base, Doubles);
    change += __builtin_convertvector(tile.change, Doubles) * square;
    lost += __builtin_convertvector(tile.lost, Doubles) * square;
    numbers += count;
  }
  LORA_INLINE void look_at(const Floats& sum, const Bits<T>& before, const Bits<T>& after) {
    auto magnitude = magnitude_of(sum);
    largest = largest > magnitude ? largest : magnitude;
    differences |= before ^ after;
  }
};

// The same for a matrix.
struct Totals {
  double base = 0, change = 0, lost = 0;
  uint32_t largest = 0;
  bool changed = false;
  int64_t numbers = 0;

  template <class T>
  LORA_INLINE void add(const Squares<T>& some) {
    using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
    Word differences = 0;
    for (int i = 0; i < kLanes; ++i) {
      base += some.base[i], change += some.change[i], lost += some.lost[i];
      largest = std::max(largest, some.largest[i]);
      differences = Word(differences | some.differences[i]);
    }
    changed |= Word(differences << 1) != 0;  // without the sign: 0 and -0 are the same number
    numbers += some.numbers;
  }
};

template <class T>
struct Problem {
  T* to;
  const T* from;
  const float *delta, *B, *A;  // delta may be nullptr
  int64_t rows, columns, rank;
  int64_t every;          // one of so many tiles is measured; 0: none
  Totals *tiles, *tails;  // the tiles stand for those that are not measured
};

// Matrices with fewer numbers are measured as a whole. Of others, one of eight tiles.
constexpr int64_t kSampledFrom = 1 << 17, kEvery = 8;
int64_t every_for(int64_t rows, int64_t columns) { return rows * columns < kSampledFrom ? 1 : kEvery; }

// Adds a change to the numbers `before`, and returns the bits of the result.
template <bool kMeasured, class T>
LORA_INLINE Bits<T> changed(const T* dtype, const Bits<T>& before, const Floats& delta, Squares<T>& squares,
                            TileSquares& measured) {
  auto was = decoded(dtype, before), sum = was + delta;
  auto after = encoded(dtype, sum);
  squares.look_at(sum, before, after);
  if constexpr (kMeasured) measured.add(was, delta, decoded(dtype, after));
  return after;
}

// kRows × kWidth·16 elements of the result from (row, column) on. Their changes stay in registers during the loop over
// the rank. They are added to the weight at the end, so that they are known to the last bit.
template <int kRows, int kWidth, bool kMeasured, class T>
LORA_INLINE void tile(const Problem<T>& p, int64_t row, int64_t column, Squares<T>& squares) {
  // Prefetches later tiles. Without this, the memory would be idle during the loop over the rank.
  constexpr int kAhead = 8 * kWidth * kLanes, kLine = 64 / sizeof(T);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kWidth * kLanes; j += kLine)
      __builtin_prefetch(p.from + (row + i) * p.columns + column + kAhead + j);
  Floats delta[kRows][kWidth] = {};
  if (p.delta)
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) load(delta[i][j], p.delta + (row + i) * p.columns + column + j * kLanes);
  for (int64_t k = 0; k < p.rank; ++k) {
    Floats a[kWidth];
#pragma GCC unroll 16
    for (int j = 0; j < kWidth; ++j) load(a[j], p.A + k * p.columns + column + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) delta[i][j] += p.B[(row + i) * p.rank + k] * a[j];
  }
  TileSquares measured(delta);
  Bits<T> after[kRows][kWidth];  // stored together: a store between the loads could delay the next load
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kWidth; ++j) {
      Bits<T> before;
      load(before, p.from + (row + i) * p.columns + column + j * kLanes);
      after[i][j] = changed<kMeasured>(p.to, before, delta[i][j], squares, measured);
    }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kWidth; ++j) store(p.to + (row + i) * p.columns + column + j * kLanes, after[i][j]);
  if constexpr (kMeasured) squares.add(measured, kRows * kWidth * kLanes);
}

// A tile, measured if it is one of the sample. The sample is a diagonal pattern.
template <int kRows, int kWidth, class T>
LORA_INLINE void sampled_tile(const Problem<T>& p, int64_t row, int64_t column, Squares<T>& squares) {
  if (p.every > 0 && (row / kRows + column / (kWidth * kLanes)) % p.every == 0)
    tile<kRows, kWidth, true>(p, row, column, squares);
  else
    tile<kRows, kWidth, false>(p, row, column, squares);
}

// The last columns, fewer than a vector has, in a padded vector.
template <class T>
LORA_INLINE void tail(const Problem<T>& p, int64_t row, int64_t column, Squares<T>& squares) {
  const auto count = p.columns - column, at = row * p.columns + column;
  T padded[kLanes] = {};  // the padding is 0
  float factors[kLanes] = {};
  std::copy_n(p.from + at, count, padded);
  Bits<T> before;
  Floats delta[1][1] = {}, a;
  load(before, padded);
  if (p.delta) {
    std::copy_n(p.delta + at, count, factors);
    load(delta[0][0], factors);
  }
  for (int64_t k = 0; k < p.rank; ++k) {
    std::copy_n(p.A + k * p.columns + column, count, factors);
    load(a, factors);
    delta[0][0] += p.B[row * p.rank + k] * a;
  }
  TileSquares measured(delta);
  store(padded, changed<true>(p.to, before, delta[0][0], squares, measured));
  squares.add(measured, count);
  std::copy_n(padded, count, p.to + at);
}

template <int kRows, int kWidth, class T>
LORA_INLINE void strip(const Problem<T>& p, int64_t row) {
  int64_t column = 0;
  Squares<T> tiles, tails;
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
  sums.changed |= sample.changed;
  if (sample.numbers == 0) return;
  auto factor = double(numbers) / double(sample.numbers);
  sums.base += factor * sample.base, sums.change += factor * sample.change, sums.lost += factor * sample.lost;
}

template <class T>
bool run(void* to, const void* from, const Addend& change, int64_t rows, int64_t columns, ChangeSums* sums) {
  Totals tiles, tails;
  const auto every = sums ? every_for(rows, columns) : 0;
  dispatch(Problem<T>{static_cast<T*>(to), static_cast<const T*>(from), change.matrix, change.B, change.A, rows,
                      columns, change.rank, every, &tiles, &tails});
  if (sums) {
    add_sums(tiles, rows * columns - tails.numbers, *sums);
    add_sums(tails, tails.numbers, *sums);
  }
  return std::max(tiles.largest, tails.largest) < infinite_from(static_cast<T*>(nullptr));
}

}  // namespace

double ChangeSums::relative() const {
  const auto ratio = std::sqrt(change / base);
  return std::isfinite(ratio) ? ratio : 0;
}

double ChangeSums::loss() const {
  if (not_finite > 0) return 1;
  return change > 0 ? std::min(1.0, std::sqrt(lost / change)) : 0;
}

bool has_add_product(Dtype dtype) { return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf; }

bool add_product(Dtype dtype, void* to, const void* from, const Addend& change, int64_t rows, int64_t columns,
                 ChangeSums* sums) {
  if (dtype == at::kFloat) return run<float>(to, from, change, rows, columns, sums);
  if (dtype == at::kBFloat16) return run<c10::BFloat16>(to, from, change, rows, columns, sums);
  return run<c10::Half>(to, from, change, rows, columns, sums);
}

}  // namespace lora
