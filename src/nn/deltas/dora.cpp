#include "nn/deltas/dora.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <limits>

#include "core/check.h"

namespace lora {

namespace {

Tensor matrix(const Tensor& t, Dtype dtype) { return t.flatten(1).to(dtype); }

// t with its rows multiplied.
Tensor scale_rows(const Tensor& t, const Tensor& gain) {
  std::vector<int64_t> shape(t.dim(), 1);
  shape[0] = t.size(0);
  return (t.to(at::kFloat) * gain.view(shape)).to(t.scalar_type());
}

}  // namespace

PeftDoraDelta::PeftDoraDelta(LoraFactors factors, const Tensor& magnitude, const Tensor& base, const std::string& label)
    : FactorDelta(std::move(factors)) {
  c10::NoGradGuard no_grad;
  auto out = factors_.B.size(0);
  check(magnitude.numel() == out, ErrorKind::bad_shape, "{}: lora_magnitude_vector has shape {}, {} outputs are wanted",
        label, c10::str(magnitude.sizes()), out);
  check(!factors_.bias.defined(), ErrorKind::unsupported, "{}: DoRA with a bias on lora_B, which PEFT has not either",
        label);
  // A convolution's has the shape that PEFT multiplies it in.
  auto shape = factors_.A.dim() == 4 ? std::vector<int64_t>{1, out, 1, 1} : std::vector<int64_t>{out};
  magnitude_ = magnitude.reshape(shape).to(factors_.A.device(), at::kFloat);
  if (factors_.A.requires_grad()) {
    magnitude_ = magnitude_.detach().clone().requires_grad_(true);
    base_ = base;
  }
  auto W = matrix(base.to(factors_.A.device()), at::kFloat), A = matrix(factors_.A, at::kFloat);
  ww_ = W.pow(2).sum(1, false, at::kDouble);
  WA_ = at::mm(W, A.t()).to(at::kDouble);
  AA_ = at::mm(A, A.t()).to(at::kDouble);
}

Effect PeftDoraDelta::effect(double strength) const {
  auto s = strength * factors_.scale;
  if (base_.defined()) {
    // The norm is a constant to the gradient (section 4.3 of the paper).
    auto V = matrix(base_, at::kFloat) +
             s * at::mm(matrix(factors_.B.detach(), at::kFloat), matrix(factors_.A.detach(), at::kFloat));
    auto gain = magnitude_.reshape(-1) / V.norm(2, 1);
    return {.A = factors_.A, .B = scale_rows(factors_.B, gain), .scale = s, .gain = gain};
  }
  auto B = matrix(factors_.B, at::kDouble);
  auto squares = ww_ + 2 * s * (WA_ * B).sum(1) + s * s * (at::mm(B, AA_) * B).sum(1);
  auto gain = (magnitude_.reshape(-1) / squares.clamp_min(0).sqrt()).to(at::kFloat);
  return {.A = factors_.A, .B = scale_rows(factors_.B, gain), .scale = s, .gain = gain};
}

StateDict PeftDoraDelta::tensors() const {
  return {{"lora_A.weight", factors_.A}, {"lora_B.weight", factors_.B}, {"lora_magnitude_vector", magnitude_}};
}

std::shared_ptr<const Delta> PeftDoraDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<PeftDoraDelta>(*this);
  moved->factors_ = factors_.to(device, dtype);
  for (auto* t : {&moved->magnitude_, &moved->ww_, &moved->WA_, &moved->AA_, &moved->base_})
    if (t->defined()) *t = t->to(device);
  return moved;
}

LycorisDoraDelta::LycorisDoraDelta(LoraFactors factors, const Tensor& dora_scale, const Tensor& base,
                                   const std::string& label)
    : FactorDelta(std::move(factors)), dora_scale_(dora_scale) {
  c10::NoGradGuard no_grad;
  auto out = base.size(0), in = base.size(1);
  by_output_ = dora_scale.dim() >= 2 && dora_scale.size(0) == out && dora_scale.numel() == out;
  bool by_input = dora_scale.dim() >= 2 && dora_scale.size(1) == in && dora_scale.numel() == in;
  check(by_output_ || by_input, ErrorKind::bad_shape,
        "{}: dora_scale has shape {}; [{}, 1, …] or [1, {}, …] is wanted for a layer {} → {}", label,
        c10::str(dora_scale.sizes()), out, in, in, out);
  check(!factors_.bias.defined(), ErrorKind::unsupported, "{}: dora_scale beside a bias on lora_B", label);

  auto W = base.to(factors_.A.device(), at::kFloat);
  auto BA = at::mm(matrix(factors_.B, at::kFloat), matrix(factors_.A, at::kFloat)).view_as(W);
  W = W + factors_.scale * BA;
  auto norm = (by_output_ ? W.flatten(1) : W.transpose(0, 1).flatten(1)).norm(2, 1);
  gain_ = dora_scale.reshape(-1).to(W.device(), at::kFloat) / (norm + std::numeric_limits<float>::epsilon());
  A_ = by_output_ ? factors_.A : scale_rows(factors_.A.transpose(0, 1), gain_).transpose(0, 1).contiguous();
  B_ = by_output_ ? scale_rows(factors_.B, gain_) : factors_.B;
}

Effect LycorisDoraDelta::effect(double strength) const {
  Effect effect{.A = A_, .B = B_, .scale = strength * factors_.scale};
  (by_output_ ? effect.gain : effect.input_gain) = strength * (gain_ - 1) + 1;
  return effect;
}

StateDict LycorisDoraDelta::tensors() const {
  return {{"lora_A.weight", factors_.A}, {"lora_B.weight", factors_.B}, {"dora_scale", dora_scale_}};
}

std::shared_ptr<const Delta> LycorisDoraDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<LycorisDoraDelta>(*this);
  moved->factors_ = factors_.to(device, dtype);
  moved->gain_ = gain_.to(device);
  moved->A_ = A_.to(device, dtype);
  moved->B_ = B_.to(device, dtype);
  return moved;
}

}  // namespace lora
