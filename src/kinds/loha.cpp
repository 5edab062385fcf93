#include "kinds/loha.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

namespace {

Tensor half(const StateDict& tensors, const std::string& n) {
  const auto &a = tensors.at("hada_w" + n + "_a"), &b = tensors.at("hada_w" + n + "_b");
  if (auto* core = tensors.find("hada_t" + n)) return at::mm(float_matrix(a).t(), with_core(*core, b));
  return at::mm(float_matrix(a), float_matrix(b));
}

Tensor dense(const StateDict& tensors, const Tensor&) { return half(tensors, "1").mul_(half(tensors, "2")); }

}  // namespace

std::shared_ptr<const Delta> make_loha(const Site& site, const StateDict& tensors, Strength strength,
                                       const std::string& label) {
  check_matrix(site, "LoHa", label);
  const auto &w1_a = tensors.at("hada_w1_a"), &w1_b = tensors.at("hada_w1_b"), &w2_a = tensors.at("hada_w2_a"),
             &w2_b = tensors.at("hada_w2_b");
  auto* core = tensors.find("hada_t1");
  auto rows = core ? 1 : 0;
  check(w1_a.size(rows) == w2_a.size(rows) && float_matrix(w1_b).size(1) == float_matrix(w2_b).size(1),
        ErrorKind::bad_shape, "{}: hada_w1 and hada_w2 are of different sizes", label);

  ProductDelta::Form form{
      .algorithm = "loha", .tensors = tensors, .rank = w1_b.size(0), .strength = strength, .dense = dense};
  // Products by elements of two sums of r products are sums of r² products of their factors.
  if (!core && site.geometry.groups == 1) {
    auto a1 = float_matrix(w1_a), b1 = float_matrix(w1_b), a2 = float_matrix(w2_a), b2 = float_matrix(w2_b);
    if (a1.size(1) * a2.size(1) * 2 <= std::min(a1.size(0), b1.size(1))) {
      form.up = (a1.unsqueeze(2) * a2.unsqueeze(1)).flatten(1);
      form.down = (b1.unsqueeze(1) * b2.unsqueeze(0)).flatten(0, 1);
    }
  }
  return std::make_shared<ProductDelta>(std::move(form), site, label);
}

}  // namespace lora
