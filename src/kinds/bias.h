#pragma once
// Another kind with a difference of the bias beside it (`diff_b`).
#include "nn/delta.h"

namespace lora {

class BiasedDelta : public Delta {
 public:
  // bias: as many numbers as the site has outputs. Throws Error{bad_shape}.
  BiasedDelta(std::shared_ptr<const Delta> inner, const Tensor& bias, const Site& site, const std::string& label);

  const char* algorithm() const override { return inner_->algorithm(); }
  int64_t rank() const override { return inner_->rank(); }
  double alpha() const override { return inner_->alpha(); }
  double scale() const override { return inner_->scale(); }
  Device device() const override { return inner_->device(); }
  bool has_bias() const override { return true; }
  bool is_dense() const override { return inner_->is_dense(); }
  Effect effect(double strength, const Tensor& base) const override;
  StateDict tensors() const override;
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  std::shared_ptr<const Delta> inner_;
  Tensor bias_;
};

}  // namespace lora
