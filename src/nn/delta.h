#pragma once
// The change that one adapter makes at one site. Layers, fusing and saving use only this interface; they do not depend
// on the algorithm. Each algorithm is one file in src/kinds.
#include <memory>
#include <string>

#include "nn/effect.h"

namespace lora {

class Delta {
 public:
  virtual ~Delta() = default;

  virtual const char* algorithm() const = 0;  // "lora", …
  virtual int64_t rank() const = 0;           // 0 if the algorithm does not have a rank
  virtual double alpha() const = 0;
  virtual double scale() const = 0;  // the factor of the product B A at strength 1
  virtual Device device() const = 0;
  virtual bool has_bias() const { return false; }    // whether effects have a bias
  virtual bool is_trained() const { return false; }  // whether the tensors require gradients

  // The effect at `strength` (the weight of the adapter) on a site. `base` is the weight of the site without fused
  // adapters; only dense effects may depend on its numbers. If A and B do not depend on `strength`, every call must
  // return the same tensor objects: callers cache what they build from them. Effect::weight is computed in each call
  // and takes the memory of a whole weight.
  virtual Effect effect(double strength, const Tensor& base) const = 0;
  // Whether effects are dense (Effect::is_dense). Callers can hold only a few dense effects at a time.
  virtual bool is_dense() const { return false; }

  // The tensors under the canonical suffixes ("lora_A.weight", …), without alpha.
  virtual LayerTensors tensors() const = 0;
  // What the delta depends on beside its tensors, in words: a setting of PEFT's. "" for nothing.
  virtual std::string beyond_tensors() const { return ""; }
  // The same delta on that device in that dtype. Tensors that do not change are shared.
  virtual std::shared_ptr<const Delta> to(Device device, Dtype dtype) const = 0;
};

}  // namespace lora
