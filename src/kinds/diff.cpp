#include "kinds/diff.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

namespace {

// A linear layer's and a 1×1 convolution's weights stand for each other.
std::vector<int64_t> without_ones(at::IntArrayRef sizes) {
  auto kept = sizes.vec();
  std::erase(kept, 1);
  return kept;
}

}  // namespace

DiffDelta::DiffDelta(const Site& site, const Tensor& diff, const Tensor& bias, const std::string& label) {
  check(!diff.defined() || without_ones(diff.sizes()) == without_ones(site.weight.sizes()), ErrorKind::bad_shape,
        "{}: the difference has shape {}, the layer's weight {}", label, diff.defined() ? c10::str(diff.sizes()) : "",
        c10::str(site.weight.sizes()));
  auto out = site.weight.size(0);
  check(!bias.defined() || bias.numel() == out, ErrorKind::bad_shape,
        "{}: the bias' difference has shape {}, {} outputs are wanted", label,
        bias.defined() ? c10::str(bias.sizes()) : "", out);
  if (diff.defined()) diff_ = diff.reshape(site.weight.sizes());
  if (bias.defined()) bias_ = bias.reshape({out});
}

Effect DiffDelta::effect(double strength, const Tensor&) const {
  Effect effect;
  if (diff_.defined()) effect.weight = diff_.to(at::kFloat) * strength;
  if (bias_.defined()) effect.bias = bias_.to(at::kFloat) * strength;
  return effect;
}

StateDict DiffDelta::tensors() const {
  StateDict tensors;
  if (diff_.defined()) tensors.set("diff", diff_);
  if (bias_.defined()) tensors.set("diff_b", bias_);
  return tensors;
}

std::shared_ptr<const Delta> DiffDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<DiffDelta>(*this);
  if (diff_.defined()) moved->diff_ = diff_.to(device, dtype);
  if (bias_.defined()) moved->bias_ = bias_.to(device, dtype);
  return moved;
}

}  // namespace lora
