#include "kinds/lokr.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace lora {

namespace {

// A matrix as left · right; right undefined where it is whole.
struct Factored {
  Tensor left, right;

  Tensor whole() const { return right.defined() ? at::mm(left, right) : left; }
};

// ATen's own takes a view that strides beside a dimension of one do not allow.
Tensor kronecker(const Tensor& a, const Tensor& b) {
  return (a.unsqueeze(1).unsqueeze(3) * b.unsqueeze(0).unsqueeze(2))
      .reshape({a.size(0) * b.size(0), a.size(1) * b.size(1)});
}

Factored first(const StateDict& tensors) {
  if (auto* w1 = tensors.find("lokr_w1")) return {float_matrix(*w1), {}};
  return {float_matrix(tensors.at("lokr_w1_a")), float_matrix(tensors.at("lokr_w1_b"))};
}

Factored second(const StateDict& tensors) {
  if (auto* w2 = tensors.find("lokr_w2")) return {float_matrix(*w2), {}};
  auto a = float_matrix(tensors.at("lokr_w2_a")), b = float_matrix(tensors.at("lokr_w2_b"));
  if (auto* core = tensors.find("lokr_t2")) return {a.t(), with_core(*core, b)};
  return {a, b};
}

Tensor rows_of(const StateDict& tensors, const Tensor& whole) {
  auto* rows = tensors.find("lokr_rows");
  return rows ? whole.slice(0, (*rows)[0].item<int64_t>(), (*rows)[1].item<int64_t>()).contiguous() : whole;
}

Tensor dense(const StateDict& tensors, const Tensor&) {
  return rows_of(tensors, kronecker(first(tensors).whole(), second(tensors).whole()));
}

// (L1 R1) ⊗ (L2 R2) = (L1 ⊗ L2) (R1 ⊗ R2), with the identity for what is whole: on the side that leaves the shorter
// rank.
std::pair<Tensor, Tensor> factors(const Factored& w1, const Factored& w2) {
  if (w1.right.defined() && w2.right.defined()) return {kronecker(w1.left, w2.left), kronecker(w1.right, w2.right)};
  if (w2.right.defined())
    return {kronecker(w1.left, w2.left), kronecker(at::eye(w1.left.size(1), w1.left.options()), w2.right)};
  if (w1.right.defined())
    return {kronecker(w1.left, at::eye(w2.left.size(0), w2.left.options())), kronecker(w1.right, w2.left)};
  return {};
}

// What the rank of factors() would be: known before they are made, which are large where they do not pay.
int64_t rank_of_factors(const Factored& w1, const Factored& w2) {
  if (w1.right.defined() && w2.right.defined()) return w1.right.size(0) * w2.right.size(0);
  if (w2.right.defined()) return w1.left.size(1) * w2.right.size(0);
  return w1.right.defined() ? w1.right.size(0) * w2.left.size(0) : 0;
}

}  // namespace

int64_t lokr_rank(const StateDict& tensors) {
  if (auto* w2 = tensors.find("lokr_w2_b")) return w2->size(0);
  auto* w1 = tensors.find("lokr_w1_b");
  return w1 ? w1->size(0) : 0;
}

std::shared_ptr<const Delta> make_lokr(const Site& site, const StateDict& tensors, Strength strength,
                                       const std::string& label) {
  check_matrix(site, "LoKr", label);
  auto w1 = first(tensors), w2 = second(tensors);
  auto out = site.weight.size(0), in = site.weight.numel() / out;

  ProductDelta::Form form{
      .algorithm = "lokr", .tensors = tensors, .rank = lokr_rank(tensors), .strength = strength, .dense = dense};
  auto rank = rank_of_factors(w1, w2);
  if (rank > 0 && rank * 2 <= std::min(out, in) && site.geometry.groups == 1) {
    auto [up, down] = factors(w1, w2);
    form.up = rows_of(tensors, up);
    form.down = down;
  }
  return std::make_shared<ProductDelta>(std::move(form), site, label);
}

}  // namespace lora
