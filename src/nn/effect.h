#pragma once
// What adapters do to a weight, and the one place where their effects are added up.
#include <vector>

#include "nn/site.h"

namespace lora {

// A delta at one strength. With it, a site that gave W x + b gives
//   (gain ⊙ W ⊙ input_gain + weight) x + scale · B A x + b + bias
// Several at one site add up: each changes the base, never what another one made of it.
struct Effect {
  Tensor A, B;  // [r, in…] and [out, r…], the site's dtype; an embedding's [r, num], [dim, r]; undefined for none
  double scale = 0;   // of B A
  Tensor gain;        // [out] float32: a factor for each row of W; undefined for 1
  Tensor input_gain;  // [in] float32: a factor for each input channel of W; undefined for 1
  Tensor weight;      // of W's shape; undefined for 0
  Tensor bias;        // [out]; undefined for 0

  // True where it takes a weight of W's size to say it: all but low-rank products, gains of rows and biases.
  bool is_dense() const { return weight.defined() || input_gain.defined(); }
};

// Several effects on one weight, seen as a matrix W [out, columns] (a norm's [n, 1]), ready to be added to its rows:
//   base + (gain + input_gain) ⊙ base + weight + B A
// All tensors are in the dtype that sums are made in (float32, or float64 for a float64 weight) and on the weight's
// device; an undefined one adds nothing.
struct EffectSum {
  Tensor B, A;        // [out, R] with all strengths in it, [R, columns]
  Tensor gain;        // [out, 1]: what the rows' factors add to 1
  Tensor input_gain;  // [1, columns]: what the columns' factors add to 1
  Tensor weight;      // [out, columns]
  Tensor bias;        // [out]

  bool changes_weight() const { return B.defined() || changes_beyond_product(); }
  bool changes_beyond_product() const { return gain.defined() || input_gain.defined() || weight.defined(); }
};

// A weight of any kind of site as a matrix [out, columns].
Tensor as_matrix(const Tensor& weight);

// Without factors: what is left when the low-rank products are applied in another way.
enum class Products { with, without };
EffectSum sum_of(const std::vector<Effect>& effects, SiteKind kind, const Tensor& weight,
                 Products products = Products::with);

// Memory for the sums of rows, made before they are needed so that adding rows allocates nothing on the CPU.
struct RowSums {
  Tensor sum, base, term;  // as many numbers each as the largest block of rows has

  static RowSums of(int64_t numbers, const Tensor& like);
};

// Rows begin … end of `to` ← those of `from` + what the sum makes of those of `base`. Matrices of one size; `to` and
// `from` may be the same memory. Where `base` is `from`, it may be of any dtype and device, and is first brought to
// `to`'s; else all are alike. Rounds once, to the dtype of `to`. `rows` may be empty where nothing beyond a product
// changes the weight and add_product() takes its dtype.
void add_rows(const EffectSum& sum, const Tensor& from, const Tensor& base, const Tensor& to, int64_t begin,
              int64_t end, const RowSums& rows);

// Whether add_rows needs memory for sums.
bool needs_row_sums(const EffectSum& sum, const Tensor& to);

// `from` with what the sum makes of `base`, both of W's shape, as a new tensor of from's dtype.
Tensor with_effects(const EffectSum& sum, const Tensor& from, const Tensor& base);
// A weight in float32 with one effect on it: what magnitudes (DoRA) are measured on.
Tensor with_effect(const Effect& effect, SiteKind kind, const Tensor& weight);

}  // namespace lora
