#pragma once
// Layers of other kinds as plain factors: exactly where they are a product, nearly where they are not.
#include "files/layers.h"

namespace lora {

struct Factors {
  Tensor A, B;  // float32: [r, columns], [rows, r]
};

// The best that `rank` columns can do for a matrix (Halko, Martinsson and Tropp 2011, arXiv:0909.4061, with power
// iterations): a truncated SVD's error to well below a per cent. The same numbers for the same matrix.
Factors truncated(const Tensor& matrix, int64_t rank);

// A convolution's two factors with its core in the first: [r, in, kh, kw] and [out, r, 1, 1], of the file's dtype.
// Throws Error{bad_shape} naming `label` where the core does not go with them.
Factors without_core(const Module& module, const std::string& label);

}  // namespace lora
