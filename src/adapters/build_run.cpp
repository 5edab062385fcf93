#include "adapters/build_run.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "nn/delta.h"

namespace lora {

namespace {

// One delta at work at a site.
struct Acting {
  const std::shared_ptr<const Delta>* delta;
  double strength;
  int64_t adapter;  // its number in the run
};

// What they do there.
struct Effects {
  std::vector<Effect> all;
  std::vector<int64_t> adapters;  // whose each is
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

// The factors of all low-rank effects; nullptr for none. A stack of the same ones is used again.
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

// One factor a rank.
Tensor strengths_of_ranks(const std::vector<Effect>& effects, Device device) {
  std::vector<float> s;
  for (const auto& e : effects)
    if (e.A.defined()) s.insert(s.end(), size_t(e.A.size(0)), float(e.scale));
  return at::tensor(s).to(device);
}

ForAll for_all(const Site& site, const Effects& effects, const Tensor& base, const WeightsOfRun& weights,
               const Applied* before) {
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
  // A gain multiplies the output, W x, where W is the base and nothing else changes it.
  if (sum.gain.defined() && !base.defined() && !sum.input_gain.defined() && !sum.weight.defined()) {
    applied.gain = sum.gain.to(at::kFloat).squeeze(1) + 1;
  } else if (sum.changes_weight()) {
    auto now = weights.weight(site);
    applied.weight = with_effects(sum, now, base.defined() ? base : now);
  }
  if (sum.bias.defined()) {
    auto own = weights.bias(site);
    applied.bias = (own.defined() ? own.to(sum.bias.scalar_type()) + sum.bias : sum.bias).to(site.weight.scalar_type());
  }
  return applied;
}

PerImage per_image(const Site& site, const Effects& effects, const Tensor& base,
                   const std::shared_ptr<const Shares>& shares, const Applied* before) {
  auto any = [&](auto which) { return std::any_of(effects.all.begin(), effects.all.end(), which); };
  check(site.kind != SiteKind::norm && !any([](const Effect& e) { return e.is_dense(); }), ErrorKind::unsupported,
        "{}: only low-rank adapters can be limited to some images or regions", site.path);
  check(!base.defined() || !any([](const Effect& e) { return e.gain.defined(); }), ErrorKind::unsupported,
        "{}: DoRA cannot be limited to some images or regions on a layer into which others are fused", site.path);
  PerImage applied{.shares = shares, .factors = stack(effects.all, before)};
  const auto device = site.weight.device();
  auto row_of = [&](Tensor& table, int64_t adapter, const Tensor& row) {
    if (!table.defined()) table = at::zeros({shares->images.size(1), row.size(0)}, device);
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

// How much of each adapter the images take; nullptr where every image takes everything.
std::shared_ptr<const Shares> shares_of(const std::vector<ActingAdapter>& adapters, Device device) {
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
  auto shares = std::make_shared<Shares>();
  shares->images = table.to(device);
  if (everywhere.defined()) shares->masks = at::stack(masks).to(device);
  return shares;
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
        run->problem = fmt::format(
            "adapter \"{}\" is on {}, the model on {}; bring it back with set_lora_device before it is used",
            adapters[i].name, there.str(), here.str());
        return run;
      }
      auto strength = adapters[i].weights.at(site->index);
      if (strength != 0) acting[site->index].push_back({&delta, strength, int64_t(i)});
    }
  }
  auto shares = parts.sites.empty() ? nullptr : shares_of(adapters, parts.sites.front()->weight.device());
  Effects effects;
  for (size_t i = 0; i < acting.size(); ++i) {
    if (acting[i].empty()) continue;
    const auto& site = *parts.sites[i];
    auto base = weights.base(site);
    const auto& first = acting[i].front();
    if (std::any_of(acting[i].begin(), acting[i].end(), [](auto& a) { return (*a.delta)->is_trained(); })) {
      if (acting[i].size() > 1 || shares) {
        run->problem = fmt::format(
            "{}: an adapter that is trained must be the only one that is active there, for all images; fuse the others",
            site.path);
        return run;
      }
      run->at[i] = std::make_shared<const Applied>(Trained{*first.delta, first.strength, base});
      continue;
    }
    // Effects of a whole weight's size live for one site only.
    effects.all.clear();
    effects.adapters.clear();
    for (const auto& [delta, strength, adapter] : acting[i]) {
      effects.all.push_back((*delta)->effect(strength, base.defined() ? base : site.weight));
      effects.adapters.push_back(adapter);
    }
    auto* old = before && i < before->at.size() ? before->at[i].get() : nullptr;
    run->at[i] = shares ? std::make_shared<const Applied>(per_image(site, effects, base, shares, old))
                        : std::make_shared<const Applied>(for_all(site, effects, base, weights, old));
  }
  return run;
}

}  // namespace lora
