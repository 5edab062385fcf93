#include "kinds/product.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

namespace {

bool is_smaller(const Tensor& up, const Tensor& down) {
  return up.defined() && (up.numel() + down.numel()) * 2 <= up.size(0) * down.size(1);
}

// The size of the change: it is made of tensors without numbers, so that what does not go together is found when a file
// is loaded, not in a run.
std::vector<int64_t> size_of_change(const ProductDelta::Form& form, at::IntArrayRef shape) {
  LayerTensors hollow;
  for (const auto& [suffix, t] : form.tensors) hollow.emplace(suffix, t.is_floating_point() ? t.to(at::kMeta) : t);
  return form.dense(hollow, at::empty(shape, at::kMeta)).sizes().vec();
}

}  // namespace

Tensor float_matrix(const Tensor& t) { return t.flatten(1).to(at::kFloat); }

Tensor with_core(const Tensor& core, const Tensor& right) {
  auto last = at::matmul(core.to(at::kFloat).permute({0, 2, 3, 1}), float_matrix(right));
  return last.permute({0, 3, 1, 2}).flatten(1);
}

Effect change_of(const ProductDelta::Form& form) {
  auto scale = form.strength.scale;
  if (is_smaller(form.up, form.down)) return {.A = form.down, .B = form.up, .scale = scale};
  return {.weight = form.dense(form.tensors, {}).mul_(scale)};
}

void check_matrix(const Site& site, const char* algorithm, const std::string& label) {
  check(site.kind == SiteKind::linear || site.kind == SiteKind::conv2d, ErrorKind::unsupported,
        "{}: {} on a layer that is neither linear nor a convolution", label, algorithm);
}

ProductDelta::ProductDelta(Form form, const Site& site, const std::string& label)
    : form_(std::move(form)), shape_(site.weight.sizes().vec()) {
  auto size = size_of_change(form_, shape_);
  auto out = shape_[0], in = site.weight.numel() / out;
  check(size[0] == out && size[1] == in, ErrorKind::bad_shape, "{}: the adapter is for a layer {}, the model's is {}",
        label, size_text(size[0], size[1], site.weight.sizes().slice(2)), size_text(site.weight));
  auto device = site.weight.device();
  auto dtype = site.weight.scalar_type();
  auto at_home = [&](const Tensor& t) { return t.is_floating_point() ? t.to(device, dtype) : t.to(device); };
  for (auto& [suffix, tensor] : form_.tensors) tensor = at_home(tensor);
  if (!is_smaller(form_.up, form_.down)) {
    form_.up = form_.down = Tensor();
    return;
  }
  auto R = form_.down.size(0);
  auto down_shape = shape_, up_shape = std::vector<int64_t>(shape_.size(), 1);
  down_shape[0] = R;
  up_shape[0] = out;
  up_shape[1] = R;
  form_.down = at_home(form_.down.reshape(down_shape));
  form_.up = at_home(form_.up.reshape(up_shape));
}

Effect ProductDelta::effect(double strength, const Tensor& base) const {
  auto scale = strength * form_.strength.scale;
  if (!is_dense()) return {.A = form_.down, .B = form_.up, .scale = scale};
  return {.weight = form_.dense(form_.tensors, base).mul_(scale).reshape(shape_)};
}

std::shared_ptr<const Delta> ProductDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<ProductDelta>(*this);
  for (auto& [suffix, tensor] : moved->form_.tensors)
    tensor = tensor.is_floating_point() ? tensor.to(device, dtype) : tensor.to(device);
  for (auto* t : {&moved->form_.up, &moved->form_.down})
    if (t->defined()) *t = t->to(device, dtype);
  return moved;
}

}  // namespace lora
