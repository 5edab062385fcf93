#include "nn/site.h"

#include <ATen/ATen.h>

#include "core/check.h"
#include "nn/delta.h"

namespace lora {

namespace {

thread_local const RunScope* innermost = nullptr;

// A factor [n] or [batch, …, n] over dimension `dim` of t.
Tensor times(const Tensor& t, const Tensor& factor, int64_t dim) {
  if (!factor.defined()) return t;
  if (factor.dim() > 1) return (t * factor).to(t.scalar_type());
  std::vector<int64_t> shape(t.dim(), 1);
  shape[dim < 0 ? t.dim() + dim : dim] = factor.size(0);
  return (t * factor.view(shape)).to(t.scalar_type());
}

const Tensor& or_own(const Tensor& replacement, const Tensor& own) { return replacement.defined() ? replacement : own; }

}  // namespace

RunScope::RunScope(const Parts& parts) : parts_(&parts), outer_(innermost) {
  auto* around = find(parts);
  if (!around) lock_ = std::shared_lock(parts.in_use);
  run_ = around ? around->run_ : parts.current();
  check(!run_ || run_->problem.empty(), ErrorKind::conflict, "{}", run_ ? run_->problem : "");
  innermost = this;
}

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

std::shared_ptr<const AddedRows> RunScope::added(const Parts& parts) {
  auto run = running(parts) ? pinned(parts) : parts.current();
  return run ? run->added : nullptr;
}

std::pair<const Applied*, const Shares*> Site::applied() const {
  auto* scope = RunScope::find(*owner);
  if (!scope || !scope->run_) return {};
  return {scope->run_->at[index].get(), scope->run_->shares.get()};
}

namespace {

// The means of areas, which keep a mask's edges where they are.
Tensor resized(const Tensor& masks, int64_t h, int64_t w) { return at::adaptive_avg_pool2d(masks, {h, w}); }

}  // namespace

Tensor Shares::of(const Tensor& x, bool is_image) const {
  auto rounds = x.size(0) / images.size(0);
  check(rounds * images.size(0) == x.size(0), ErrorKind::usage,
        "adapters were given for {} images; a batch of {} is no multiple of that", images.size(0), x.size(0));
  auto each = images.repeat({rounds, 1});  // [batch, entries]
  if (is_image) {
    each = each.unsqueeze(-1).unsqueeze(-1);
    return masks.defined() ? each * resized(masks, x.size(2), x.size(3)) : each;
  }
  if (x.dim() == 2) return masks.defined() ? each * masks.mean({1, 2}) : each;
  each = each.unsqueeze(1);
  if (!masks.defined()) return each;
  auto count = x.size(1);
  bool is_text = count == tokens && (width == 0 || x.size(2) == width);
  for (auto h = masks.size(1), w = masks.size(2); !is_text; h = (h + 1) / 2, w = (w + 1) / 2) {
    if (h * w == count) return each * resized(masks, h, w).flatten(1).t();
    if (h * w < count || h * w == 1) break;
  }
  return each * masks.mean({1, 2});
}

namespace {

// The factors of one site in one call, with the shares of the images in them.
struct Factors {
  Tensor s, gain, bias;

  // `dim` is that of the channels.
  Factors(const Site& site, const Applied& applied, const Shares* shares, const Tensor& x, int64_t dim)
      : s(applied.s), gain(applied.gain), bias(or_own(applied.bias, site.bias)) {
    if (!shares || !applied.entry.defined()) return;
    auto share = shares->of(x, dim == 1);
    if (s.defined()) s = share.index_select(dim, applied.entry) * (dim == 1 ? applied.s.view({-1, 1, 1}) : applied.s);
    auto sum = [&](const Tensor& rows) {
      auto last = dim == 1 ? share.movedim(1, -1) : share;
      auto all = at::matmul(last, rows);
      return dim == 1 ? all.movedim(-1, 1) : all;
    };
    if (applied.gains.defined()) gain = sum(applied.gains) + 1;
    if (applied.biases.defined()) {
      auto own = site.bias.defined() ? site.bias.to(at::kFloat) : at::zeros({applied.biases.size(1)}, share.options());
      bias = sum(applied.biases) + (dim == 1 ? own.view({-1, 1, 1}) : own);
    }
  }

  // y is W x without a bias where this is true: the gain does not touch it.
  bool apart() const { return gain.defined() || (bias.defined() && bias.dim() > 1); }
  Tensor finish(const Tensor& y, int64_t dim) const {
    auto gained = times(y, gain, dim);
    if (!bias.defined()) return gained;
    if (bias.dim() > 1) return (gained + bias).to(y.scalar_type());
    std::vector<int64_t> shape(y.dim(), 1);
    shape[dim < 0 ? y.dim() + dim : dim] = bias.size(0);
    return gained + bias.to(y.scalar_type()).view(shape);
  }
};

}  // namespace

namespace {

// What a delta that is trained does now.
Applied now(const Site& site, const Applied& applied) {
  auto effect = applied.trained->effect(applied.strength, or_own(applied.base, site.weight));
  Applied fresh{.A = effect.A, .B = effect.B, .scale = effect.scale, .gain = effect.gain};
  if (effect.bias.defined()) fresh.bias = site.bias.defined() ? site.bias + effect.bias : effect.bias;
  return fresh;
}

}  // namespace

Tensor linear(const Site& site, const Tensor& x) {
  auto [applied, shares] = site.applied();
  if (!applied) return at::linear(x, site.weight, site.bias);
  Applied trained;
  if (applied->trained) applied = &(trained = now(site, *applied));
  Factors factors(site, *applied, shares, x, -1);
  const auto& W = or_own(applied->weight, site.weight);
  auto y = factors.apart() ? factors.finish(at::linear(x, W), -1) : at::linear(x, W, factors.bias);
  if (!applied->A.defined()) return y;
  const auto& B = applied->B;
  auto t = times(at::linear(x.to(applied->A.scalar_type()), applied->A), factors.s, -1).flatten(0, -2);
  if (y.scalar_type() == t.scalar_type() && y.is_contiguous())
    y.view({-1, B.size(0)}).addmm_(t, B.t(), 1, applied->scale);
  else
    y = y + (at::mm(t, B.t()) * applied->scale).view_as(y).to(y.scalar_type());
  return y;
}

Tensor conv2d(const Site& site, const Tensor& x) {
  const auto& g = site.geometry;
  auto convolve = [&](const Tensor& weight, const Tensor& bias) {
    return at::conv2d(x.to(weight.scalar_type()), weight, bias, g.stride, g.padding, g.dilation, g.groups);
  };
  auto [applied, shares] = site.applied();
  if (!applied) return convolve(site.weight, site.bias);
  Applied trained;
  if (applied->trained) applied = &(trained = now(site, *applied));
  const auto& W = or_own(applied->weight, site.weight);
  if (!applied->A.defined() && !applied->gain.defined() && !applied->entry.defined())
    return convolve(W, or_own(applied->bias, site.bias));
  // Shares are those of the output's places.
  auto t = applied->A.defined() ? convolve(applied->A, {}) : Tensor();
  Factors factors(site, *applied, shares, t.defined() ? t : convolve(W, {}), 1);
  auto y = factors.apart() ? factors.finish(convolve(W, {}), 1) : convolve(W, factors.bias);
  if (!t.defined()) return y;
  return y.add_(at::conv2d(times(t, factors.s, 1), applied->B).to(y.scalar_type()), applied->scale);
}

Tensor embedding(const Site& site, const Tensor& ids) {
  auto [applied, shares] = site.applied();
  if (!applied) return at::embedding(site.weight, ids);
  Applied trained;
  if (applied->trained) applied = &(trained = now(site, *applied));
  auto y = at::embedding(or_own(applied->weight, site.weight), ids);
  if (!applied->A.defined()) return y;
  Factors factors(site, *applied, shares, y, -1);
  auto t = times(at::embedding(applied->A.t().contiguous(), ids), factors.s, -1);
  return y + (at::matmul(t, applied->B.t()) * applied->scale).to(y.scalar_type());
}

std::pair<const Tensor&, const Tensor&> norm_weights(const Site& site) {
  auto* applied = site.applied().first;
  if (!applied) return {site.weight, site.bias};
  return {or_own(applied->weight, site.weight), or_own(applied->bias, site.bias)};
}

}  // namespace lora
