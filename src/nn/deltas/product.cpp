#include "nn/deltas/product.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

namespace {

bool is_smaller(const Tensor& up, const Tensor& down) {
  return up.defined() && (up.numel() + down.numel()) * 2 <= up.size(0) * down.size(1);
}

}  // namespace

Tensor float_matrix(const Tensor& t) { return t.flatten(1).to(at::kFloat); }

void check_matrix(const Site& site, const char* algorithm, const std::string& label) {
  check(site.kind == SiteKind::linear || site.kind == SiteKind::conv2d, ErrorKind::unsupported,
        "{}: {} on a layer that is neither linear nor a convolution", label, algorithm);
}

void check_product(const Site& site, int64_t rows, int64_t columns, const std::string& label) {
  auto out = site.weight.size(0), in = site.weight.numel() / out;
  check(rows == out && columns == in, ErrorKind::bad_shape,
        "{}: the adapter is for a layer {} → {}, the model's is {} → {}", label, columns, rows, in, out);
}

ProductDelta::ProductDelta(Form form, Device device, Dtype dtype) : form_(std::move(form)) {
  auto at_home = [&](const Tensor& t) { return t.is_floating_point() ? t.to(device, dtype) : t.to(device); };
  StateDict moved;
  for (const auto& [suffix, tensor] : form_.tensors) moved.set(suffix, at_home(tensor));
  form_.tensors = std::move(moved);
  if (!is_smaller(form_.up, form_.down)) {
    form_.up = form_.down = Tensor();
    return;
  }
  auto R = form_.down.size(0);
  auto down_shape = form_.shape, up_shape = std::vector<int64_t>(form_.shape.size(), 1);
  down_shape[0] = R;
  up_shape[0] = form_.shape[0];
  up_shape[1] = R;
  form_.down = at_home(form_.down.reshape(down_shape));
  form_.up = at_home(form_.up.reshape(up_shape));
}

Effect ProductDelta::effect(double strength, const Tensor& base) const {
  auto scale = strength * form_.strength.scale;
  if (!is_dense()) return {.A = form_.down, .B = form_.up, .scale = scale};
  return {.weight = form_.dense(form_.tensors, base).mul_(scale).reshape(form_.shape)};
}

std::shared_ptr<const Delta> ProductDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<ProductDelta>(*this);
  StateDict tensors;
  for (const auto& [suffix, tensor] : form_.tensors)
    tensors.set(suffix, tensor.is_floating_point() ? tensor.to(device, dtype) : tensor.to(device));
  moved->form_.tensors = std::move(tensors);
  for (auto* t : {&moved->form_.up, &moved->form_.down})
    if (t->defined()) *t = t->to(device, dtype);
  return moved;
}

}  // namespace lora
