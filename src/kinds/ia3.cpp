#include "kinds/ia3.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

namespace {

// PEFT's factors of a linear layer tell by their shape; a convolution's are [1, n, 1, 1] either way.
bool is_on_input(const Site& site, const Tensor& factor, bool feedforward) {
  if (factor.dim() == 2) return factor.size(0) == 1;
  return feedforward || factor.numel() != site.weight.size(0);
}

}  // namespace

Ia3Delta::Ia3Delta(const Site& site, const StateDict& tensors, const Tensor& base_bias, bool feedforward,
                   const std::string& label)
    : tensors_(tensors) {
  check(site.kind == SiteKind::linear || site.kind == SiteKind::conv2d, ErrorKind::unsupported,
        "{}: IA3 on a layer that is neither linear nor a convolution", label);
  auto* factor = tensors.find("ia3_l");
  const auto& given = factor ? *factor : tensors.at("weight");
  on_input_ =
      factor ? is_on_input(site, *factor, feedforward) : tensors.at("on_input").to(at::kDouble).item<double>() != 0;
  auto wanted = site.weight.size(on_input_ ? 1 : 0);
  check(given.numel() == wanted, ErrorKind::bad_shape, "{}: IA3 has {} factors for the {}s of a layer {} → {}", label,
        given.numel(), on_input_ ? "input" : "output", site.weight.size(1), site.weight.size(0));
  deviation_ = given.reshape(-1).to(site.weight.device(), at::kFloat);
  if (factor) deviation_ = deviation_ - 1;
  if (factor && !on_input_ && base_bias.defined()) bias_ = base_bias.to(deviation_) * deviation_;
}

Effect Ia3Delta::effect(double strength, const Tensor&) const {
  Effect effect;
  (on_input_ ? effect.input_gain : effect.gain) = deviation_ * strength + 1;
  if (bias_.defined()) effect.bias = bias_ * strength;
  return effect;
}

StateDict Ia3Delta::tensors() const {
  auto tensors = tensors_;
  // As a linear layer's: a convolution's shape leaves it to the config which side is meant.
  if (auto* factor = tensors_.find("ia3_l"))
    tensors.set("ia3_l", factor->reshape(on_input_ ? std::vector<int64_t>{1, -1} : std::vector<int64_t>{-1, 1}));
  return tensors;
}

std::shared_ptr<const Delta> Ia3Delta::to(Device device, Dtype) const {
  auto moved = std::make_shared<Ia3Delta>(*this);
  moved->deviation_ = deviation_.to(device);
  if (bias_.defined()) moved->bias_ = bias_.to(device);
  return moved;
}

}  // namespace lora
