#pragma once
// LoRA (Hu et al. 2021, arXiv:2106.09685) on linear layers, convolutions of any kernel and embeddings.
#include "kinds/kind.h"

namespace lora {

// The tensors of a pair of factors.
inline constexpr std::string_view kDown = "lora_A.weight", kUp = "lora_B.weight", kUpBias = "lora_B.bias";

// ΔW = scale · B A.
struct LoraFactors {
  Tensor A;     // [r, in], a convolution's [r, in, kh, kw], an embedding's [r, num]
  Tensor B;     // [out, r], a convolution's [out, r, 1, 1], an embedding's [dim, r]
  Tensor bias;  // [out]: PEFT's lora_bias, multiplied by scale as the product is; undefined for none
  double alpha = 0;
  double scale = 1;

  int64_t rank() const { return A.size(0); }
  LoraFactors to(Device device, Dtype dtype) const;

  // Brings factors as a file has them into the site's form: matrices for a 1×1 convolution and the reverse, four input
  // channels where an inpainting model has nine. Throws Error{bad_shape} saying what fits where. `label` names the
  // layer in messages.
  static LoraFactors fit(const Site& site, const Tensor& A, const Tensor& B, const Tensor& bias,
                         const std::string& label);
};

// A convolution's down factor [r, in, 1, 1] with its tucker core [r, r, kh, kw] in it: [r, in, kh, kw], float32.
Tensor with_tucker_core(const Tensor& A, const Tensor& core, const std::string& label);

// PEFT's factors make the transpose of an embedding's weight, kohya's family's the weight as it stands: one row for
// each word. Turns an embedding's factors from one form to the other. Other layers stay as they are.
void turn_embedding(LoraLayer& layer);

// What all algorithms on a pair of factors have in common.
class FactorDelta : public Delta {
 public:
  explicit FactorDelta(LoraFactors factors) : factors_(std::move(factors)) {}

  int64_t rank() const override { return factors_.rank(); }
  double alpha() const override { return factors_.alpha; }
  double scale() const override { return factors_.scale; }
  Device device() const override { return factors_.A.device(); }
  const LoraFactors& factors() const { return factors_; }

 protected:
  LoraFactors factors_;  // as in the file
};

class LoraDelta : public FactorDelta {
 public:
  using FactorDelta::FactorDelta;

  const char* algorithm() const override { return "lora"; }
  bool has_bias() const override { return factors_.bias.defined(); }
  bool is_trained() const override { return factors_.A.requires_grad(); }
  Effect effect(double strength, const Tensor& base) const override;
  LayerTensors tensors() const override;
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;
};

}  // namespace lora
