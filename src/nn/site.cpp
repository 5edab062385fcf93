#include "nn/site.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

namespace {

thread_local const RunScope* innermost = nullptr;

// A batch's images may differ in their factors: s is then [batch, R], and t's first dimension is a multiple of it.
Tensor by_rank(const Tensor& t, const Tensor& s, int64_t rank_dim) {
  if (!s.defined()) return t;
  std::vector<int64_t> shape(t.dim(), 1);
  shape[rank_dim < 0 ? t.dim() + rank_dim : rank_dim] = s.size(-1);
  return (t * s.view(shape)).to(t.scalar_type());
}

const Tensor& or_own(const Tensor& replacement, const Tensor& own) { return replacement.defined() ? replacement : own; }

}  // namespace

RunScope::RunScope(const Parts& parts) : RunScope(parts, find(parts) ? find(parts)->run_ : parts.current()) {}

RunScope::RunScope(const Parts& parts, std::shared_ptr<const Run> run)
    : parts_(&parts), run_(std::move(run)), outer_(innermost) {
  check(!run_ || run_->problem.empty(), ErrorKind::conflict, "{}", run_ ? run_->problem : "");
  if (!find(parts)) lock_ = std::shared_lock(parts.in_use);
  innermost = this;
}

RunScope::~RunScope() { innermost = outer_; }

const RunScope* RunScope::find(const Parts& parts) {
  for (auto* scope = innermost; scope; scope = scope->outer_)
    if (scope->parts_ == &parts) return scope;
  return nullptr;
}

std::shared_ptr<const Run> scaled(const std::shared_ptr<const Run>& run, double factor) {
  if (!run || factor == 1) return run;
  auto result = std::make_shared<Run>(*run);
  for (auto& applied : result->at) {
    if (!applied) continue;
    auto copy = std::make_shared<Applied>(*applied);
    copy->scale *= factor;
    applied = std::move(copy);
  }
  return result;
}

const Applied* Site::applied() const {
  auto* scope = RunScope::find(*owner);
  return scope && scope->run_ ? scope->run_->at[index].get() : nullptr;
}

Tensor linear(const Site& site, const Tensor& x) {
  auto* applied = site.applied();
  if (!applied) return at::linear(x, site.weight, site.bias);
  auto y = at::linear(x, or_own(applied->weight, site.weight), or_own(applied->bias, site.bias));
  if (!applied->A.defined()) return y;
  const auto& B = applied->B;
  auto t = by_rank(at::linear(x.to(applied->A.scalar_type()), applied->A), applied->s, -1).flatten(0, -2);
  if (y.scalar_type() == t.scalar_type() && y.is_contiguous())
    y.view({-1, B.size(0)}).addmm_(t, B.t(), 1, applied->scale);
  else
    y = y + (at::mm(t, B.t()) * applied->scale).view_as(y).to(y.scalar_type());
  return y;
}

Tensor conv2d(const Site& site, const Tensor& x) {
  const auto& g = site.geometry;
  auto convolve = [&](const Tensor& input, const Tensor& weight, const Tensor& bias) {
    return at::conv2d(input, weight, bias, g.stride, g.padding, g.dilation, g.groups);
  };
  auto* applied = site.applied();
  if (!applied) return convolve(x, site.weight, site.bias);
  auto y = convolve(x, or_own(applied->weight, site.weight), or_own(applied->bias, site.bias));
  if (!applied->A.defined()) return y;
  auto t = by_rank(convolve(x.to(applied->A.scalar_type()), applied->A, {}), applied->s, 1);
  return y.add_(at::conv2d(t, applied->B).to(y.scalar_type()), applied->scale);
}

Tensor embedding(const Site& site, const Tensor& ids) {
  auto* applied = site.applied();
  if (!applied) return at::embedding(site.weight, ids);
  auto y = at::embedding(or_own(applied->weight, site.weight), ids);
  if (!applied->A.defined()) return y;
  auto t = by_rank(at::embedding(applied->A.t(), ids), applied->s, -1);
  return y + (at::matmul(t, applied->B.t()) * applied->scale).to(y.scalar_type());
}

std::pair<const Tensor&, const Tensor&> norm_weights(const Site& site) {
  auto* applied = site.applied();
  if (!applied) return {site.weight, site.bias};
  return {or_own(applied->weight, site.weight), or_own(applied->bias, site.bias)};
}

}  // namespace lora
