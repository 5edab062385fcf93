#pragma once
// The effects of adapters on a weight, and their sum.
#include <vector>

#include "nn/add_product.h"
#include "nn/site.h"

namespace lora {

// The effect of a delta at one strength. It changes the output of a site from W x + b to
//   (gain ⊙ W ⊙ input_gain + weight) x + scale · B A x + b + bias
// Several effects at one site are added. Each of them changes the base weight, not the result of another effect.
struct Effect {
  // [r, in…] and [out, r…]; for an embedding [r, num] and [dim, r]. In the dtype of the site. Undefined if the effect
  // is not low-rank.
  Tensor A, B;
  double scale = 0;   // of B A
  Tensor gain;        // [out] float32: a factor for each row of W; undefined for 1
  Tensor input_gain;  // [in] float32: a factor for each input channel of W; undefined for 1
  Tensor weight;      // of W's shape; undefined for 0
  Tensor bias;        // [out]; undefined for 0

  // Whether the effect needs a matrix of the size of W. Low-rank products, gains of rows and biases do not.
  bool is_dense() const { return weight.defined() || input_gain.defined(); }
};

// The sum of several effects on one weight, as a matrix W [out, columns] (for a norm: [n, 1]):
//   base + (gain + input_gain) ⊙ base + weight + B A
// All tensors are on the device of the weight and in the dtype of the sum: float32, or float64 for a float64 weight. An
// undefined tensor adds nothing.
struct EffectSum {
  Tensor B, A;        // [out, R], multiplied by all strengths; [R, columns]
  Tensor gain;        // [out, 1]: the factors of the rows, minus 1
  Tensor input_gain;  // [1, columns]: the factors of the columns, minus 1
  Tensor weight;      // [out, columns]
  Tensor bias;        // [out]

  bool changes_weight() const { return B.defined() || changes_beyond_product(); }
  bool changes_beyond_product() const { return gain.defined() || input_gain.defined() || weight.defined(); }
};

// The weight of a site of any kind as a matrix [out, columns].
Tensor as_matrix(const Tensor& weight);

// Products::without leaves A and B out, for callers that apply the low-rank products in another way.
enum class Products { with, without };
EffectSum sum_of(const std::vector<Effect>& effects, SiteKind kind, const Tensor& weight,
                 Products products = Products::with);

// Memory for the sums of rows, allocated before it is needed. With it, add_rows() does not allocate on the CPU.
struct RowSums {
  Tensor sum, base, term;  // each as large as the largest block of rows

  static RowSums of(int64_t numbers, const Tensor& like);
};

// Computes rows begin … end of `to`: the rows of `from` plus the effect of the sum on the rows of `base`. The three
// matrices have the same size. `to` and `from` may be the same memory. If `base` is `from`, it may have any dtype and
// device; it is converted to those of `to` first. Otherwise all three have the same dtype and device. The result is
// rounded once, to the dtype of `to`. `rows` may be empty unless needs_row_sums(). `sums`, if not nullptr, gets the
// sums over the change from `from`, as add_product() measures them.
void add_rows(const EffectSum& sum, const Tensor& from, const Tensor& base, const Tensor& to, int64_t begin,
              int64_t end, const RowSums& rows, ChangeSums* sums = nullptr);

// How many numbers are NaN or infinite. It does not allocate memory on the CPU.
int64_t count_not_finite(const Tensor& t);

// Whether add_rows() needs memory for sums.
bool needs_row_sums(const EffectSum& sum, const Tensor& to);

// `from` plus the effect of the sum on `base`, as a new tensor of the dtype of `from`. Both have the shape of W.
Tensor with_effects(const EffectSum& sum, const Tensor& from, const Tensor& base);
// A weight plus one effect, in float32. DoRA measures magnitudes on it.
Tensor with_effect(const Effect& effect, SiteKind kind, const Tensor& weight);

}  // namespace lora
