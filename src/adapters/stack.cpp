#include "adapters/stack.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "nn/delta.h"

namespace lora {

namespace {

bool same_tensors(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](auto& x, auto& y) { return x.is_same(y); });
}

Tensor stacked(const std::vector<Tensor>& parts, int64_t dim) {
  return parts.size() == 1 ? parts.front() : at::cat(parts, dim);
}

// W's rows or input channels multiplied.
Tensor scaled(const Tensor& W, const Tensor& factor, int64_t dim) {
  std::vector<int64_t> shape(W.dim(), 1);
  shape[dim] = W.size(dim);
  return W.to(at::kFloat) * factor.view(shape);
}

// What takes a weight of W's size to say: everything but products of low rank and gains of rows.
bool is_dense(const Effect& e) { return e.weight.defined() || e.input_gain.defined(); }

std::vector<float> floats(const std::vector<std::pair<Effect, int64_t>>& effects) {
  std::vector<float> s;
  for (const auto& [effect, entry] : effects)
    if (effect.A.defined()) s.insert(s.end(), effect.A.size(0), float(effect.scale));
  return s;
}

}  // namespace

std::shared_ptr<const Applied> Stack::apply(const Site& site, const std::vector<std::pair<Effect, int64_t>>& effects,
                                            const Tensor& base, int64_t shared_entries) {
  auto applied = std::make_shared<Applied>();
  auto device = site.weight.device();

  std::vector<Tensor> As, Bs;
  double one_scale = 1;
  for (const auto& [effect, entry] : effects)
    if (effect.A.defined()) As.push_back(effect.A), Bs.push_back(effect.B), one_scale = effect.scale;
  if (!As.empty()) {
    auto& kept = stacked_[site.index];
    if (!same_tensors(kept.As, As)) kept.A = stacked(As, 0);
    if (!same_tensors(kept.Bs, Bs)) kept.B = stacked(Bs, 1);
    kept.As = std::move(As);
    kept.Bs = std::move(Bs);
    applied->A = kept.A;
    applied->B = kept.B;
    if (kept.As.size() == 1 && !shared_entries)
      applied->scale = one_scale;
    else
      applied->s = at::tensor(floats(effects)).to(device);
  }

  if (shared_entries) {
    check(std::none_of(effects.begin(), effects.end(), [](auto& e) { return is_dense(e.first); }) &&
              site.kind != SiteKind::norm,
          ErrorKind::unsupported,
          "{}: an adapter that is no low-rank one here cannot be for some images or regions alone", site.path);
    check(
        !base.defined() || std::none_of(effects.begin(), effects.end(), [](auto& e) { return e.first.gain.defined(); }),
        ErrorKind::unsupported, "{}: DoRA for some images or regions alone, on a layer into which others are fused",
        site.path);
    std::vector<int64_t> entry_of_rank;
    auto out = site.weight.size(0);
    auto row_of = [&](Tensor& table, int64_t entry, const Tensor& row) {
      if (!table.defined()) table = at::zeros({shared_entries, out}, at::TensorOptions(device).dtype(at::kFloat));
      table[entry] += row;
    };
    for (const auto& [effect, entry] : effects) {
      if (effect.A.defined()) entry_of_rank.insert(entry_of_rank.end(), effect.A.size(0), entry);
      if (effect.gain.defined()) row_of(applied->gains, entry, effect.gain - 1);
      if (effect.bias.defined()) row_of(applied->biases, entry, effect.bias);
    }
    applied->entry = at::tensor(entry_of_rank, at::kLong).to(device);
    return applied;
  }

  Tensor change;  // of the weight, float32
  auto add = [&](Tensor& sum, const Tensor& term) { sum = sum.defined() ? sum + term : term; };
  bool dense = std::any_of(effects.begin(), effects.end(),
                           [&](auto& e) { return is_dense(e.first) || (base.defined() && e.first.gain.defined()); });
  Tensor gain, bias;
  for (const auto& [effect, entry] : effects) {
    const auto& W = base.defined() ? base : site.weight;
    if (effect.gain.defined() && !dense) add(gain, effect.gain - 1);
    if (effect.gain.defined() && dense) add(change, scaled(W, effect.gain - 1, 0));
    if (effect.input_gain.defined()) add(change, scaled(W, effect.input_gain - 1, 1));
    if (effect.weight.defined()) add(change, effect.weight.to(at::kFloat));
    if (effect.bias.defined()) add(bias, effect.bias.to(at::kFloat));
  }
  if (gain.defined()) applied->gain = gain + 1;
  if (change.defined()) applied->weight = (site.weight.to(at::kFloat) + change).to(site.weight.scalar_type());
  if (bias.defined())
    applied->bias = (site.bias.defined() ? site.bias.to(at::kFloat) + bias : bias).to(site.weight.scalar_type());
  return applied;
}

const StackEntry* find(const LoadedAdapters& loaded, const std::string& name) {
  auto it = std::find_if(loaded.begin(), loaded.end(), [&](auto& e) { return e->adapter->name == name; });
  return it == loaded.end() ? nullptr : it->get();
}

bool AdapterState::is_fused(const Adapter& adapter) const {
  return std::any_of(fused.begin(), fused.end(), [&](auto& f) { return f.get() == &adapter; });
}

Tensor AdapterState::restored(const Site& site) const {
  for (const auto& adapter : fused) {
    const auto& entries = adapter->entries;
    auto it = std::lower_bound(entries.begin(), entries.end(), site.index,
                               [](auto& entry, size_t index) { return entry.site->index < index; });
    if (it != entries.end() && it->site == &site)
      return base_weight(site, *base).to(site.weight.device(), site.weight.scalar_type());
  }
  return {};
}

std::shared_ptr<Run> Stack::run(const std::vector<StackEntry>& entries, const AdapterState& state, int64_t tokens,
                                int64_t width) {
  auto run = std::make_shared<Run>();
  run->added = state.added;
  bool shared =
      std::any_of(entries.begin(), entries.end(), [](auto& e) { return !e.images.empty() || e.mask.defined(); });
  struct Acting {
    const Delta* delta;
    double strength;
    int64_t entry;
  };
  std::vector<std::vector<Acting>> acting(parts_.sites.size());
  std::vector<std::shared_ptr<const Delta>> trained_at(parts_.sites.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].weights.none()) continue;
    for (const auto& [site, delta] : entries[i].adapter->entries) {
      auto there = delta->device(), here = site->weight.device();
      if (there != here) {
        run->problem = fmt::format(
            "adapter \"{}\" is on {}, the model on {}; bring it back with set_lora_device before it is used",
            entries[i].adapter->name, there.str(), here.str());
        return run;
      }
      auto strength = entries[i].weights.at(site->index);
      if (strength == 0) continue;
      acting[site->index].push_back({delta.get(), strength, int64_t(i)});
      if (delta->is_trained()) trained_at[site->index] = delta;
    }
  }
  run->at.resize(parts_.sites.size());
  stacked_.resize(parts_.sites.size());
  for (size_t i = 0; i < acting.size(); ++i) {
    if (acting[i].empty()) {
      stacked_[i] = {};
      continue;
    }
    const auto& site = *parts_.sites[i];
    auto base = state.restored(site);
    if (auto& trained = trained_at[i]) {  // asked anew in each pass
      if (acting[i].size() > 1 || shared) {
        run->problem = fmt::format(
            "{}: an adapter that is trained must be the only one that is active there, for all images; fuse the others",
            site.path);
        return run;
      }
      run->at[i] =
          std::make_shared<Applied>(Applied{.trained = trained, .strength = acting[i].front().strength, .base = base});
      continue;
    }
    try {
      // Effects of a whole weight's size live for one site only.
      std::vector<std::pair<Effect, int64_t>> effects;
      for (const auto& [delta, strength, entry] : acting[i])
        effects.emplace_back(delta->effect(strength, base.defined() ? base : site.weight), entry);
      run->at[i] = apply(site, effects, base, shared ? int64_t(entries.size()) : 0);
    } catch (const std::exception& error) {  // and the tensors' own: a publication never fails half-way
      run->problem = error.what();
      return run;
    }
  }
  if (!shared) return run;

  auto shares = std::make_shared<Shares>(Shares{.tokens = tokens, .width = width});
  auto device = parts_.sites.front()->weight.device();
  size_t images = 1;
  std::vector<Tensor> masks;
  Tensor everywhere;
  for (const auto& e : entries) {
    images = std::max(images, e.images.size());
    if (e.mask.defined()) everywhere = at::ones_like(e.mask);
  }
  auto table = at::ones({int64_t(images), int64_t(entries.size())});
  for (size_t i = 0; i < entries.size(); ++i) {
    for (size_t b = 0; b < entries[i].images.size(); ++b) table[b][i] = entries[i].images[b] ? 1.0 : 0.0;
    masks.push_back(entries[i].mask.defined() ? entries[i].mask : everywhere);
  }
  shares->images = table.to(device);
  if (everywhere.defined()) shares->masks = at::stack(masks).to(device);
  run->shares = std::move(shares);
  return run;
}

}  // namespace lora
