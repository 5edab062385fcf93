#pragma once
// DoRA (Liu et al. 2024, arXiv:2402.09353): the adapted weight is brought to a learned norm, a magnitude m for each
// output channel (or input channel). Its two trainers mean different things by a strength k:
//   PEFT (lora_magnitude_vector): W' = m/‖W + k s B A‖ ⊙ (W + k s B A), so that m stays in force at k = 0
//   kohya and LyCORIS (dora_scale): W + k (W' − W), with W' = m/(‖W + s B A‖ + ε) ⊙ (W + s B A)
#include "kinds/lora.h"
#include "kinds/wrapped.h"

namespace lora {

class PeftDoraDelta : public FactorDelta {
 public:
  // magnitude: out numbers in any shape. base: the site's base weight, looked at once. Throws Error{bad_shape}.
  PeftDoraDelta(LoraFactors factors, const Tensor& magnitude, const Tensor& base, const std::string& label);

  const char* algorithm() const override { return "dora"; }
  bool is_trained() const override { return factors_.A.requires_grad(); }
  Effect effect(double strength, const Tensor& base) const override;
  LayerTensors tensors() const override;
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  Tensor magnitude_;  // [out], a convolution's [1, out, 1, 1], float32; requires gradients where the factors do
  // ‖W + s B A‖² by rows is ww + 2 s (WA ⊙ B) 1 + s² (B AA ⊙ B) 1: no work of W's size at another strength.
  Tensor ww_, WA_, AA_;  // [out], [out, r], [r, r]; float64
};

// Around any kind that is linear in its strength: LoRA, LoHa, LoKr, GLoRA.
class LycorisDoraDelta : public WrappedDelta {
 public:
  // dora_scale: [out, 1, …] or [out] for magnitudes of outputs, [1, in, …] of inputs. base: the site's base weight,
  // looked at once. Throws Error{bad_shape} for another shape.
  LycorisDoraDelta(std::shared_ptr<const Delta> inner, const Tensor& dora_scale, const Tensor& base,
                   const std::string& label);

  const char* algorithm() const override { return "dora"; }
  Effect effect(double strength, const Tensor& base) const override;
  LayerTensors tensors() const override;
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  Tensor dora_scale_;
  bool by_output_ = true;
  Tensor gain_;   // m / (norm + ε), [out] or [in] float32
  Tensor A_, B_;  // the inner kind's factors with the gain in them; undefined where it has none
};

}  // namespace lora
