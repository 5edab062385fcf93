#pragma once
// What a layer adds to its weight, as numbers: Kind::change's effects, matrices [rows, columns] in float32.
#include "kinds/kinds.h"

namespace lora {

inline bool is_nothing(const Effect& change) { return !change.A.defined() && !change.weight.defined(); }
// [rows, columns], or [n] of a norm or a bias.
std::vector<int64_t> shape_of(const Effect& change);
Tensor dense(const Effect& change);
// The sum of the products of their numbers, made without the products of factors.
double dot(const Effect& a, const Effect& b);
double norm(const Effect& change);  // Frobenius

// What a layer adds to the bias at strength 1, in float64: PEFT's bias of the up factor, which the scale multiplies,
// and a difference. Undefined for nothing.
Tensor bias_change_of(const LoraLayer& layer);

struct FactorPair {
  Tensor A, B;  // float32: [r, columns], [rows, r]
};

// The best that `rank` columns can do for a matrix (Halko, Martinsson and Tropp 2011, arXiv:0909.4061, with power
// iterations): a truncated SVD's error to well below a per cent. The same numbers for the same matrix.
FactorPair truncated(const Tensor& matrix, int64_t rank);

}  // namespace lora
