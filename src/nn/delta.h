#pragma once
// What one adapter changes at one site. Layers, fusing and saving speak to this interface and never ask which algorithm
// it is; each algorithm is one file under deltas/.
#include <memory>

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
};

class Delta {
 public:
  virtual ~Delta() = default;

  virtual const char* algorithm() const = 0;  // "lora", …
  virtual int64_t rank() const = 0;           // 0 where there is none
  virtual double alpha() const = 0;
  virtual double scale() const = 0;  // what multiplies the product of the factors at strength 1
  virtual Device device() const = 0;
  virtual bool has_bias() const { return false; }    // whether effects have one
  virtual bool is_trained() const { return false; }  // its tensors require gradients

  // What it does at a strength (an adapter's weight) to a site whose base weight, without anything fused, is `base`.
  // Gives the same A and B, not equal ones, wherever they do not depend on the strength, so that their users can keep
  // what they made of them. A `weight` is made anew, at the cost of its size.
  virtual Effect effect(double strength, const Tensor& base) const = 0;
  // Whether effects have a weight: what a caller can hold only a few of at a time.
  virtual bool is_dense() const { return false; }

  // The tensors under the canonical suffixes ("lora_A.weight", …), alpha not among them.
  virtual StateDict tensors() const = 0;
  // The same delta elsewhere or in another dtype; shares the tensors where nothing changes.
  virtual std::shared_ptr<const Delta> to(Device device, Dtype dtype) const = 0;
};

}  // namespace lora
