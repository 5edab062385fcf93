#include "kinds/dora.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <limits>

#include "core/check.h"

namespace lora {

namespace {

Tensor matrix(const Tensor& t, Dtype dtype) { return t.flatten(1).to(dtype); }

// t with its rows, or what else a dimension counts, multiplied.
Tensor scaled(const Tensor& t, const Tensor& gain, int64_t dim = 0) {
  std::vector<int64_t> shape(t.dim(), 1);
  shape[dim] = t.size(dim);
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
  if (factors_.A.requires_grad()) magnitude_ = magnitude_.detach().clone().requires_grad_(true);
  auto W = matrix(base.to(factors_.A.device()), at::kFloat), A = matrix(factors_.A, at::kFloat);
  ww_ = W.pow(2).sum(1, false, at::kDouble);
  WA_ = at::mm(W, A.t()).to(at::kDouble);
  AA_ = at::mm(A, A.t()).to(at::kDouble);
}

Effect PeftDoraDelta::effect(double strength, const Tensor& base) const {
  auto s = strength * factors_.scale;
  if (is_trained()) {
    // The norm is a constant to the gradient (section 4.3 of the paper), and of what the factors are now.
    auto V = with_effect({.A = factors_.A.detach(), .B = factors_.B.detach(), .scale = s}, SiteKind::linear, base);
    auto gain = magnitude_.reshape(-1) / V.flatten(1).norm(2, 1);
    return {.A = factors_.A, .B = scaled(factors_.B, gain), .scale = s, .gain = gain};
  }
  auto B = matrix(factors_.B, at::kDouble);
  auto squares = ww_ + 2 * s * (WA_ * B).sum(1) + s * s * (at::mm(B, AA_) * B).sum(1);
  auto gain = (magnitude_.reshape(-1) / squares.clamp_min(0).sqrt()).to(at::kFloat);
  return {.A = factors_.A, .B = scaled(factors_.B, gain), .scale = s, .gain = gain};
}

StateDict PeftDoraDelta::tensors() const {
  return {{"lora_A.weight", factors_.A}, {"lora_B.weight", factors_.B}, {"lora_magnitude_vector", magnitude_}};
}

std::shared_ptr<const Delta> PeftDoraDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<PeftDoraDelta>(*this);
  moved->factors_ = factors_.to(device, dtype);
  for (auto* t : {&moved->magnitude_, &moved->ww_, &moved->WA_, &moved->AA_})
    if (t->defined()) *t = t->to(device);
  return moved;
}

LycorisDoraDelta::LycorisDoraDelta(std::shared_ptr<const Delta> inner, const Tensor& dora_scale, const Tensor& base,
                                   const std::string& label)
    : inner_(std::move(inner)), dora_scale_(dora_scale) {
  c10::NoGradGuard no_grad;
  auto out = base.size(0), in = base.size(1);
  by_output_ = dora_scale.size(0) == out && dora_scale.numel() == out;
  bool by_input = dora_scale.dim() >= 2 && dora_scale.size(1) == in && dora_scale.numel() == in;
  check(by_output_ || by_input, ErrorKind::bad_shape,
        "{}: dora_scale has shape {}; [{}, 1, …] or [1, {}, …] is wanted for a layer {} → {}", label,
        c10::str(dora_scale.sizes()), out, in, in, out);

  auto change = inner_->effect(1, base);
  check(!change.gain.defined() && !change.input_gain.defined() && !change.bias.defined(), ErrorKind::unsupported,
        "{}: dora_scale beside {} with a bias or factors of its own", label, inner_->algorithm());
  auto W = with_effect(change, SiteKind::linear, base.to(inner_->device()));
  auto norm = (by_output_ ? W.flatten(1) : W.transpose(0, 1).flatten(1)).norm(2, 1);
  gain_ = dora_scale.reshape(-1).to(W.device(), at::kFloat) / (norm + std::numeric_limits<float>::epsilon());
  if (!change.A.defined()) return;
  A_ = by_output_ ? change.A : scaled(change.A, gain_, 1);
  B_ = by_output_ ? scaled(change.B, gain_) : change.B;
}

Effect LycorisDoraDelta::effect(double strength, const Tensor& base) const {
  auto effect = inner_->effect(strength, base);
  if (A_.defined()) effect.A = A_, effect.B = B_;
  if (effect.weight.defined()) effect.weight = scaled(effect.weight, gain_, by_output_ ? 0 : 1);
  (by_output_ ? effect.gain : effect.input_gain) = strength * (gain_ - 1) + 1;
  return effect;
}

StateDict LycorisDoraDelta::tensors() const {
  auto tensors = inner_->tensors();
  tensors.set("dora_scale", dora_scale_);
  return tensors;
}

std::shared_ptr<const Delta> LycorisDoraDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<LycorisDoraDelta>(*this);
  moved->inner_ = inner_->to(device, dtype);
  moved->gain_ = gain_.to(device);
  if (A_.defined()) moved->A_ = A_.to(device, dtype), moved->B_ = B_.to(device, dtype);
  return moved;
}

}  // namespace lora
