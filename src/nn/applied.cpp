#include "nn/applied.h"

#include <ATen/ATen.h>

#include "core/check.h"
#include "nn/delta.h"
#include "nn/run.h"

namespace lora {

namespace {

const Tensor& or_own(const Tensor& replacement, const Tensor& own) { return replacement.defined() ? replacement : own; }

// t times one factor for each index of dimension `dim`. t itself if `factor` is undefined.
Tensor times(const Tensor& t, const Tensor& factor, int64_t dim) {
  if (!factor.defined()) return t;
  std::vector<int64_t> shape(t.dim(), 1);
  shape[dim < 0 ? t.dim() + dim : dim] = factor.size(0);
  return (t * factor.view(shape)).to(t.scalar_type());
}

// y plus one number for each index of dimension `dim`. y itself if `bias` is undefined.
Tensor plus_bias(const Tensor& y, const Tensor& bias, int64_t dim) {
  if (!bias.defined()) return y;
  std::vector<int64_t> shape(y.dim(), 1);
  shape[dim < 0 ? y.dim() + dim : dim] = bias.size(0);
  return y + bias.to(y.scalar_type()).view(shape);
}

// Resizing by the means of areas keeps the edges of a mask in their place.
Tensor resized(const Tensor& masks, int64_t h, int64_t w) { return at::adaptive_avg_pool2d(masks, {h, w}); }

Tensor for_batch(const Tensor& images, int64_t batch) {
  auto rounds = batch / images.size(0);
  check(rounds * images.size(0) == batch, ErrorKind::usage,
        "the adapters were given for {} images, but the batch has {}; the batch must be a multiple of the images",
        images.size(0), batch);
  return images.repeat({rounds, 1});
}

// The present effect of a delta that is being trained.
ForAll now(const Site& site, const Trained& trained) {
  auto effect = trained.delta->effect(trained.strength, or_own(trained.base, site.weight));
  ForAll fresh{.scale = effect.scale, .gain = effect.gain};
  fresh.factors = std::make_shared<FactorStack>(FactorStack{.A = effect.A, .B = effect.B, .As = {}, .Bs = {}});
  if (effect.bias.defined()) fresh.bias = site.bias.defined() ? site.bias + effect.bias : effect.bias;
  return fresh;
}

// y + scale · t Bᵀ over the last dimension, in place if possible.
Tensor plus_product(Tensor y, const Tensor& t, const Tensor& B, double scale) {
  auto flat = t.flatten(0, -2);
  if (y.scalar_type() == t.scalar_type() && y.is_contiguous()) {
    y.view({-1, B.size(0)}).addmm_(flat, B.t(), 1, scale);
    return y;
  }
  return y + (at::mm(flat, B.t()) * scale).view_as(y).to(y.scalar_type());
}

Tensor convolve(const Site& site, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const auto& g = site.geometry;
  return at::conv2d(x.to(weight.scalar_type()), weight, bias, g.stride, g.padding, g.dilation, g.groups);
}

// ---- All images take all adapters -----------------------------------------------------------------------------------

Tensor linear(const Site& site, const ForAll& a, const Placed& in) {
  const auto &W = or_own(a.weight, site.weight), &bias = or_own(a.bias, site.bias);
  auto y = a.gain.defined() ? plus_bias(times(at::linear(in.x, W), a.gain, -1), bias, -1) : at::linear(in.x, W, bias);
  if (!a.factors) return y;
  const auto &A = a.factors->A, &B = a.factors->B;
  return plus_product(y, times(at::linear(in.x.to(A.scalar_type()), A), a.s, -1), B, a.scale);
}

Tensor conv2d(const Site& site, const ForAll& a, const Tensor& x) {
  const auto &W = or_own(a.weight, site.weight), &bias = or_own(a.bias, site.bias);
  auto y =
      a.gain.defined() ? plus_bias(times(convolve(site, x, W, {}), a.gain, 1), bias, 1) : convolve(site, x, W, bias);
  if (!a.factors) return y;
  const auto &A = a.factors->A, &B = a.factors->B;
  return y.add_(at::conv2d(times(convolve(site, x, A, {}), a.s, 1), B).to(y.scalar_type()), a.scale);
}

Tensor embedding(const Site& site, const ForAll& a, const Placed& ids) {
  auto y = at::embedding(or_own(a.weight, site.weight), ids.x);
  if (!a.factors) return y;
  const auto &A = a.factors->A, &B = a.factors->B;
  auto t = times(at::embedding(A.t().contiguous(), ids.x), a.s, -1);
  return y + (at::matmul(t, B.t()) * a.scale).to(y.scalar_type());
}

// ---- Each image has its own adapter weights -------------------------------------------------------------------------

// Adds the gains and biases of the adapters to W x. `adapter_weights` is from ImageWeights. Adapters and channels are
// the last dimension.
Tensor finished(const Site& site, const PerImage& a, const Tensor& Wx, const Tensor& adapter_weights) {
  auto y = Wx;
  if (a.gains.defined()) y = (y * (at::matmul(adapter_weights, a.gains) + 1)).to(y.scalar_type());
  auto bias = site.bias.defined() ? site.bias.to(at::kFloat) : Tensor();
  if (a.biases.defined()) {
    auto added = at::matmul(adapter_weights, a.biases);
    bias = bias.defined() ? added + bias : added;
  }
  return bias.defined() ? (y + bias).to(y.scalar_type()) : y;
}

bool is_plain(const PerImage& a) { return !a.gains.defined() && !a.biases.defined(); }

// A x times the strength of each rank at each image and place. Adapters and ranks are the last dimension.
Tensor weighted_ranks(const PerImage& a, const Tensor& Ax, const Tensor& adapter_weights) {
  return (Ax * (adapter_weights.index_select(-1, a.adapter_of_rank) * a.s)).to(Ax.scalar_type());
}

Tensor linear(const Site& site, const PerImage& a, const Placed& in) {
  auto adapter_weights = a.image_weights->of_rows(in.x, in.place);
  auto y = is_plain(a) ? at::linear(in.x, site.weight, site.bias)
                       : finished(site, a, at::linear(in.x, site.weight), adapter_weights);
  if (!a.factors) return y;
  const auto &A = a.factors->A, &B = a.factors->B;
  return plus_product(y, weighted_ranks(a, at::linear(in.x.to(A.scalar_type()), A), adapter_weights), B, 1);
}

Tensor conv2d(const Site& site, const PerImage& a, const Tensor& x) {
  auto last = [](const Tensor& t) { return t.movedim(1, -1); };
  auto first = [](const Tensor& t) { return t.movedim(-1, 1); };
  auto y = convolve(site, x, site.weight, is_plain(a) ? site.bias : Tensor());
  auto adapter_weights = last(a.image_weights->of_maps(y));  // at the places of the output
  if (!is_plain(a)) y = first(finished(site, a, last(y), adapter_weights)).contiguous();
  if (!a.factors) return y;
  const auto &A = a.factors->A, &B = a.factors->B;
  auto t = first(weighted_ranks(a, last(convolve(site, x, A, {})), adapter_weights));
  return y.add_(at::conv2d(t, B).to(y.scalar_type()));
}

Tensor embedding(const Site& site, const PerImage& a, const Placed& ids) {
  auto y = at::embedding(site.weight, ids.x);
  if (!a.factors) return y;
  const auto &A = a.factors->A, &B = a.factors->B;
  auto t = weighted_ranks(a, at::embedding(A.t().contiguous(), ids.x), a.image_weights->of_rows(y, ids.place));
  return y + at::matmul(t, B.t()).to(y.scalar_type());
}

// ---- Trained --------------------------------------------------------------------------------------------------------

Tensor linear(const Site& site, const Trained& a, const Placed& in) { return linear(site, now(site, a), in); }
Tensor conv2d(const Site& site, const Trained& a, const Tensor& x) { return conv2d(site, now(site, a), x); }
Tensor embedding(const Site& site, const Trained& a, const Placed& ids) { return embedding(site, now(site, a), ids); }

}  // namespace

Tensor ImageWeights::of_rows(const Tensor& x, Place place) const {
  auto each = for_batch(images, x.size(0));  // [batch, adapters]
  std::vector<int64_t> shape(x.dim(), 1);
  shape.front() = each.size(0), shape.back() = each.size(1);
  each = each.view(shape);
  if (!masks.defined()) return each;
  if (!place.in_picture()) return each * masks.mean({1, 2});
  auto there = resized(masks, place.height, place.width).permute({1, 2, 0});  // [h, w, adapters]
  auto middle = x.sizes().slice(1, size_t(x.dim() - 2)).vec();
  middle.push_back(there.size(2));
  return each * there.reshape(middle);
}

Tensor ImageWeights::of_maps(const Tensor& x) const {
  auto each = for_batch(images, x.size(0)).unsqueeze(-1).unsqueeze(-1);
  return masks.defined() ? each * resized(masks, x.size(2), x.size(3)) : each;
}

Tensor linear(const Site& site, const Placed& x) {
  auto* applied = RunScope::at(site);
  if (!applied) return at::linear(x.x, site.weight, site.bias);
  return std::visit([&](const auto& a) { return linear(site, a, x); }, *applied);
}

Tensor conv2d(const Site& site, const Tensor& x) {
  auto* applied = RunScope::at(site);
  if (!applied) return convolve(site, x, site.weight, site.bias);
  return std::visit([&](const auto& a) { return conv2d(site, a, x); }, *applied);
}

Tensor embedding(const Site& site, const Placed& ids) {
  auto* applied = RunScope::at(site);
  if (!applied) return at::embedding(site.weight, ids.x);
  return std::visit([&](const auto& a) { return embedding(site, a, ids); }, *applied);
}

std::pair<const Tensor&, const Tensor&> norm_weights(const Site& site) {
  auto* applied = RunScope::at(site);
  auto* all = applied ? std::get_if<ForAll>(applied) : nullptr;  // a norm does not have another form
  if (!all) return {site.weight, site.bias};
  return {or_own(all->weight, site.weight), or_own(all->bias, site.bias)};
}

}  // namespace lora
