#pragma once
// What one adapter changes at one site. Layers, fusing and saving speak to this interface and never ask which algorithm
// it is; each algorithm is one file under deltas/.
#include <memory>

#include "nn/effect.h"

namespace lora {

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
  // If A and B do not depend on the strength, every call returns the same tensor objects: callers keep what they made
  // of them. A `weight` is made anew, at the cost of its size.
  virtual Effect effect(double strength, const Tensor& base) const = 0;
  // Whether effects have a weight: what a caller can hold only a few of at a time.
  virtual bool is_dense() const { return false; }

  // The tensors under the canonical suffixes ("lora_A.weight", …), alpha not among them.
  virtual StateDict tensors() const = 0;
  // The same delta elsewhere or in another dtype; shares the tensors where nothing changes.
  virtual std::shared_ptr<const Delta> to(Device device, Dtype dtype) const = 0;
};

}  // namespace lora
