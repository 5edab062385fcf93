#include "adapters/build_run.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "nn/delta.h"

namespace lora {

namespace {

// One delta that acts on a site.
struct Acting {
  const std::shared_ptr<const Delta>* delta;
  double strength;
  int64_t adapter;  // the index of its adapter in the run
};

// The effects of all deltas at one site.
struct Effects {
  std::vector<Effect> all;
  std::vector<int64_t> adapters;  // the adapter of each effect
};

bool same_tensors(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](auto& x, auto& y) { return x.is_same(y); });
}

std::shared_ptr<const FactorStack> factors_of(const Applied* before) {
  if (!before) return nullptr;
  if (auto* all = std::get_if<ForAll>(before)) return all->factors;
  if (auto* each = std::get_if<PerImage>(before)) return each->factors;
  return nullptr;
}

// The stacked factors of all low-rank effects; nullptr if there are none. If `before` has a stack of the same factors,
// it is used again.
std::shared_ptr<const FactorStack> stack(const std::vector<Effect>& effects, const Applied* before) {
  auto is_low_rank = [](const Effect& e) { return e.A.defined(); };
  auto old = factors_of(before);
  auto first = std::find_if(effects.begin(), effects.end(), is_low_rank);
  if (first == effects.end()) return nullptr;
  if (std::none_of(std::next(first), effects.end(), is_low_rank)) {
    if (old && old->As.empty() && old->A.is_same(first->A) && old->B.is_same(first->B)) return old;
    return std::make_shared<const FactorStack>(FactorStack{.A = first->A, .B = first->B, .As = {}, .Bs = {}});
  }
  FactorStack fresh;
  for (const auto& e : effects)
    if (is_low_rank(e)) fresh.As.push_back(e.A), fresh.Bs.push_back(e.B);
  bool same_A = old && same_tensors(old->As, fresh.As), same_B = old && same_tensors(old->Bs, fresh.Bs);
  if (same_A && same_B) return old;
  fresh.A = same_A ? old->A : at::cat(fresh.As, 0);
  fresh.B = same_B ? old->B : at::cat(fresh.Bs, 1);
  return std::make_shared<const FactorStack>(std::move(fresh));
}

// [R]: the scale of the effect of each rank.
Tensor strengths_of_ranks(const std::vector<Effect>& effects, Device device) {
  std::vector<float> s;
  for (const auto& e : effects)
    if (e.A.defined()) s.insert(s.end(), size_t(e.A.size(0)), float(e.scale));
  return at::tensor(s).to(device);
}

// The weight of a site as the run finds it, made once, when it is first asked for.
class WeightOfRun {
 public:
  WeightOfRun(const Site& site, const WeightsOfRun& weights) : site_(site), weights_(weights) {}
  const Tensor& operator()() {
    if (!made_.defined()) made_ = weights_.weight(site_);
    return made_;
  }

 private:
  const Site& site_;
  const WeightsOfRun& weights_;
  Tensor made_;
};

ForAll for_all(const Site& site, const Effects& effects, const Tensor& base, WeightOfRun& weight,
               const WeightsOfRun& weights, const Applied* before) {
  ForAll applied;
  applied.factors = stack(effects.all, before);
  if (applied.factors && applied.factors->As.empty()) {
    auto it = std::find_if(effects.all.begin(), effects.all.end(), [](auto& e) { return e.A.defined(); });
    applied.scale = it->scale;
  } else if (applied.factors) {
    applied.s = strengths_of_ranks(effects.all, site.weight.device());
  }
  bool plain = std::none_of(effects.all.begin(), effects.all.end(), [](auto& e) {
    return e.gain.defined() || e.input_gain.defined() || e.weight.defined() || e.bias.defined();
  });
  if (plain) return applied;
  auto sum = sum_of(effects.all, site.kind, site.weight, Products::without);
  // A gain can be applied to the output W x only if W is the base weight and nothing else changes it.
  if (sum.gain.defined() && !base.defined() && !sum.input_gain.defined() && !sum.weight.defined()) {
    applied.gain = sum.gain.to(at::kFloat).squeeze(1) + 1;
  } else if (sum.changes_weight()) {
    applied.weight = with_effects(sum, weight(), base.defined() ? base : weight());
  }
  if (sum.bias.defined()) {
    auto own = weights.bias(site);
    applied.bias = (own.defined() ? own.to(sum.bias.scalar_type()) + sum.bias : sum.bias).to(site.weight.scalar_type());
  }
  return applied;
}

PerImage per_image(const Site& site, const Effects& effects, const Tensor& base,
                   const std::shared_ptr<const ImageWeights>& image_weights, const Applied* before) {
  auto any = [&](auto which) { return std::any_of(effects.all.begin(), effects.all.end(), which); };
  check(site.kind != SiteKind::norm && !any([](const Effect& e) { return e.is_dense(); }), ErrorKind::unsupported,
        "{}: only low-rank adapters can be limited to some images or regions", site.path);
  check(
      !base.defined() || !any([](const Effect& e) { return e.gain.defined(); }), ErrorKind::unsupported,
      "{}: a DoRA adapter cannot be limited to some images or regions on a layer with fused adapters; call unfuse_lora "
      "first",
      site.path);
  PerImage applied{.image_weights = image_weights, .factors = stack(effects.all, before)};
  const auto device = site.weight.device();
  auto row_of = [&](Tensor& table, int64_t adapter, const Tensor& row) {
    if (!table.defined()) table = at::zeros({image_weights->images.size(1), row.size(0)}, device);
    table[adapter] += row;
  };
  std::vector<int64_t> adapter_of_rank;
  for (size_t i = 0; i < effects.all.size(); ++i) {
    const auto& e = effects.all[i];
    const auto adapter = effects.adapters[i];
    if (e.A.defined()) adapter_of_rank.insert(adapter_of_rank.end(), size_t(e.A.size(0)), adapter);
    if (e.gain.defined()) row_of(applied.gains, adapter, e.gain - 1);
    if (e.bias.defined()) row_of(applied.biases, adapter, e.bias);
  }
  if (!applied.factors) return applied;
  applied.s = strengths_of_ranks(effects.all, device);
  applied.adapter_of_rank = at::tensor(adapter_of_rank, at::kLong).to(device);
  return applied;
}

// The weight of each adapter for each image and region; nullptr if all images take all adapters.
std::shared_ptr<const ImageWeights> image_weights_of(const std::vector<ActingAdapter>& adapters, Device device) {
  size_t images = 0;
  Tensor everywhere;
  for (const auto& a : adapters) {
    images = std::max(images, a.images.size());
    if (a.mask.defined()) everywhere = at::ones_like(a.mask);
  }
  if (images == 0 && !everywhere.defined()) return nullptr;
  auto table = at::ones({int64_t(std::max<size_t>(images, 1)), int64_t(adapters.size())});
  std::vector<Tensor> masks;
  for (size_t i = 0; i < adapters.size(); ++i) {
    for (size_t b = 0; b < adapters[i].images.size(); ++b)
      table[int64_t(b)][int64_t(i)] = adapters[i].images[b] ? 1.0 : 0.0;
    masks.push_back(adapters[i].mask.defined() ? adapters[i].mask : everywhere);
  }
  auto image_weights = std::make_shared<ImageWeights>();
  image_weights->images = table.to(device);
  if (everywhere.defined()) image_weights->masks = at::stack(masks).to(device);
  return image_weights;
}

}  // namespace

std::shared_ptr<const Run> build_run(const Parts& parts, const std::vector<ActingAdapter>& adapters,
                                     const WeightsOfRun& weights, std::shared_ptr<const AddedRows> added,
                                     const Run* before) {
  auto run = std::make_shared<Run>();
  run->added = std::move(added);
  run->at.resize(parts.sites.size());
  std::vector<std::vector<Acting>> acting(parts.sites.size());
  for (size_t i = 0; i < adapters.size(); ++i) {
    if (adapters[i].weights.none()) continue;
    for (const auto& [site, delta] : adapters[i].adapter->entries) {
      auto there = delta->device(), here = site->weight.device();
      if (there != here) {
        run->problem =
            fmt::format("adapter \"{}\" is on {}, but the model is on {}; move the adapter with set_lora_device first",
                        adapters[i].name, there.str(), here.str());
        return run;
      }
      auto strength = adapters[i].weights.at(site->index);
      if (strength != 0) acting[site->index].push_back({&delta, strength, int64_t(i)});
    }
  }
  auto image_weights = parts.sites.empty() ? nullptr : image_weights_of(adapters, parts.sites.front()->weight.device());
  Effects effects;
  for (size_t i = 0; i < acting.size(); ++i) {
    if (acting[i].empty()) continue;
    const auto& site = *parts.sites[i];
    auto base = weights.base(site);
    const auto& first = acting[i].front();
    if (std::any_of(acting[i].begin(), acting[i].end(), [](auto& a) { return (*a.delta)->is_trained(); })) {
      if (acting[i].size() > 1 || image_weights) {
        run->problem = fmt::format(
            "{}: an adapter that is being trained must be the only active adapter on a layer, and act on all images; "
            "fuse the other adapters",
            site.path);
        return run;
      }
      run->at[i] = std::make_shared<const Applied>(Trained{*first.delta, first.strength, base});
      continue;
    }
    // The effects of one site are released before those of the next, because they may be as large as weights.
    effects.all.clear();
    effects.adapters.clear();
    WeightOfRun weight(site, weights);
    for (const auto& [delta, strength, adapter] : acting[i]) {
      // The present weight may be another than the run's: what was fused in it is about to leave.
      bool looks_at_base = (*delta)->is_dense();
      effects.all.push_back((*delta)->effect(strength, base.defined() ? base : looks_at_base ? weight() : site.weight));
      effects.adapters.push_back(adapter);
    }
    auto* old = before && i < before->at.size() ? before->at[i].get() : nullptr;
    run->at[i] = image_weights ? std::make_shared<const Applied>(per_image(site, effects, base, image_weights, old))
                               : std::make_shared<const Applied>(for_all(site, effects, base, weight, weights, old));
  }
  return run;
}

}  // namespace lora
