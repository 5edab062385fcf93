#pragma once
// A full difference of a layer's weight and bias: kohya's and LyCORIS' `diff` and `diff_b`, and norms, which have no
// other form.
#include "nn/delta.h"

namespace lora {

class DiffDelta : public Delta {
 public:
  // diff of the site's weight's numbers, bias of its bias'; either may be undefined. Throws Error{bad_shape}.
  DiffDelta(const Site& site, const Tensor& diff, const Tensor& bias, const std::string& label);

  const char* algorithm() const override { return "diff"; }
  int64_t rank() const override { return 0; }
  double alpha() const override { return 0; }
  double scale() const override { return 1; }
  bool has_bias() const override { return bias_.defined(); }
  Device device() const override { return (diff_.defined() ? diff_ : bias_).device(); }
  bool is_dense() const override { return diff_.defined(); }
  Effect effect(double strength, const Tensor& base) const override;
  StateDict tensors() const override;
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  Tensor diff_, bias_;
};

}  // namespace lora
