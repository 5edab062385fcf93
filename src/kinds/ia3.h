#pragma once
// IA3 (Liu et al. 2022, arXiv:2205.05638): rows or columns of W times a learned factor. LyCORIS stores the deviation
// from 1 (`weight`, `on_input`), PEFT the factor (`ia3_l`), which in the rows multiplies the bias too.
#include "nn/delta.h"

namespace lora {

class Ia3Delta : public Delta {
 public:
  // tensors: weight and on_input, or ia3_l: [out, 1] or [1, in], a convolution's [1, out or in, 1, 1], of the inputs
  // where `feedforward`. base_bias: the site's, undefined where it has none. Throws Error{bad_shape}.
  Ia3Delta(const Site& site, const StateDict& tensors, const Tensor& base_bias, bool feedforward,
           const std::string& label);

  const char* algorithm() const override { return "ia3"; }
  int64_t rank() const override { return 0; }
  double alpha() const override { return 0; }
  double scale() const override { return 1; }
  Device device() const override { return deviation_.device(); }
  bool has_bias() const override { return bias_.defined(); }
  Effect effect(double strength, const Tensor& base) const override;
  StateDict tensors() const override;
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  StateDict tensors_;
  bool on_input_ = false;
  Tensor deviation_;  // [in] or [out], float32
  Tensor bias_;       // what a strength of 1 adds to the bias, float32; undefined for nothing
};

}  // namespace lora
