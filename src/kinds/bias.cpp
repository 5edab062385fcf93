#include "kinds/bias.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

BiasedDelta::BiasedDelta(std::shared_ptr<const Delta> inner, const Tensor& bias, const Site& site,
                         const std::string& label)
    : inner_(std::move(inner)) {
  auto out = site.weight.size(0);
  check(bias.numel() == out, ErrorKind::bad_shape, "{}: the bias' difference has shape {}, {} outputs are wanted",
        label, c10::str(bias.sizes()), out);
  bias_ = bias.reshape({out}).to(site.weight.device(), site.weight.scalar_type());
}

Effect BiasedDelta::effect(double strength, const Tensor& base) const {
  auto effect = inner_->effect(strength, base);
  auto bias = bias_.to(at::kFloat) * strength;
  effect.bias = effect.bias.defined() ? effect.bias + bias : bias;
  return effect;
}

StateDict BiasedDelta::tensors() const {
  auto tensors = inner_->tensors();
  tensors.set("diff_b", bias_);
  return tensors;
}

std::shared_ptr<const Delta> BiasedDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<BiasedDelta>(*this);
  moved->inner_ = inner_->to(device, dtype);
  moved->bias_ = bias_.to(device, dtype);
  return moved;
}

}  // namespace lora
