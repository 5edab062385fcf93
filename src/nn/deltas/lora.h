#pragma once
// LoRA (Hu et al. 2021, arXiv:2106.09685) on linear layers and convolutions of any kernel.
#include "nn/delta.h"

namespace lora {

class LoraDelta : public Delta {
 public:
  // A [r, in] or [r, in, kh, kw], B [out, r] or [out, r, 1, 1], both of the site's kind; scale is what multiplies B A.
  LoraDelta(Tensor A, Tensor B, double alpha, double scale)
      : factors_{std::move(A), std::move(B), scale}, alpha_(alpha) {}

  // Brings factors as a file has them into the site's form: matrices for a 1×1 convolution and the reverse. Throws
  // Error{bad_shape} saying what fits where. `label` names the layer in messages.
  static std::pair<Tensor, Tensor> fit(const Site& site, const Tensor& A, const Tensor& B, const std::string& label);

  const char* algorithm() const override { return "lora"; }
  int64_t rank() const override { return factors_.rank(); }
  double alpha() const override { return alpha_; }
  const LowRank* low_rank() const override { return &factors_; }
  StateDict tensors() const override;
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  LowRank factors_;
  double alpha_;
};

}  // namespace lora
