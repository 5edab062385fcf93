#include "adapters/registry.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "core/check.h"
#include "core/text.h"

namespace lora {

namespace {

using Recipes = std::unordered_map<Site*, Recipe>;

void add_recipes(const std::vector<FusedAdapter>& fused, Recipes& recipes) {
  for (const auto& f : fused)
    for (const auto& [site, delta] : f.adapter->entries)
      if (auto strength = f.strengths.at(site->index); strength != 0) recipes[site].push_back({delta.get(), strength});
}

// Whether two lists of fused adapters give the same weights.
bool same(const std::vector<FusedAdapter>& a, const std::vector<FusedAdapter>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](auto& x, auto& y) { return x.adapter == y.adapter && x.strengths == y.strengths; });
}

// The words of all loaded adapters; nullptr if there are none. If several adapters have a word, its vectors are the
// same in all of them (see stage_words).
std::shared_ptr<const AddedRows> added_rows(const AdapterState& state, size_t component, const Parts& parts) {
  std::vector<Tensor> rows;
  std::vector<AddedWord> words;
  std::set<std::string> seen;
  int64_t next = parts.vocabulary ? parts.vocabulary->weight.size(0) : 0;
  for (const auto& adapter : state.loaded) {
    const auto& part = adapter->parts[component].adapter;
    if (!part) continue;
    for (const auto& [text, vectors] : part->words) {
      if (!seen.insert(text).second) continue;
      rows.push_back(vectors);
      auto& ids = words.emplace_back(AddedWord{text, std::vector<int64_t>(size_t(vectors.size(0)))}).ids;
      std::iota(ids.begin(), ids.end(), next);
      next += vectors.size(0);
    }
  }
  if (rows.empty()) return nullptr;
  return std::make_shared<const AddedRows>(AddedRows{at::cat(rows), std::move(words)});
}

// The base weight of a site if one of these adapters is fused into it; otherwise undefined.
Tensor base_under(const std::vector<FusedAdapter>& fused, const Site& site, const BaseWeights& base) {
  for (const auto& f : fused) {
    const auto& entries = f.adapter->entries;
    auto it = std::lower_bound(entries.begin(), entries.end(), site.index,
                               [](auto& entry, size_t index) { return entry.site->index < index; });
    if (it != entries.end() && it->site == &site) return base.weight(site);
  }
  return {};
}

}  // namespace

AdapterRegistry::AdapterRegistry(std::vector<Component> components) : components_(std::move(components)) {
  for (const auto& c : components_)
    check(
        !c.parts->source, ErrorKind::conflict,
        "{}: this model belongs to another pipeline, whose adapters act on it; open the model again for this pipeline",
        c.name);
  AdapterState state;
  state.components.resize(components_.size());
  publish(prepare(std::move(state), Rewrite({}, base_)));
  for (size_t i = 0; i < components_.size(); ++i) {
    components_[i].parts->source = this;
    components_[i].parts->component = i;
  }
}

AdapterRegistry::~AdapterRegistry() {
  for (const auto& c : components_) c.parts->source = nullptr;
}

size_t AdapterRegistry::index_of(const std::string& name) const {
  std::vector<std::string> known;
  for (size_t i = 0; i < components_.size(); ++i) {
    if (components_[i].name == name) return i;
    known.push_back(components_[i].name);
  }
  fail(ErrorKind::usage, "this pipeline does not have a component \"{}\" that can hold adapters; it has: {}", name,
       join(known, ", "));
}

std::shared_ptr<const AdapterSnapshot> AdapterRegistry::current() const {
  std::lock_guard lock(publishing_);
  return current_;
}

void AdapterRegistry::publish(std::shared_ptr<const AdapterSnapshot> snapshot) {
  std::lock_guard lock(publishing_);
  current_.swap(snapshot);
}

WeightsOfRun AdapterRegistry::weights(const AdapterState& state, size_t component) const {
  static const std::vector<FusedAdapter> kNothing;
  const auto* fused = state.enabled ? &state.components[component].fused : &kNothing;
  return {.weight = [](const Site& site) { return site.weight; },
          .bias = [](const Site& site) { return site.bias; },
          .base = [this, fused](const Site& site) { return base_under(*fused, site, base_); }};
}

// ---- Changes --------------------------------------------------------------------------------------------------------

// The sites whose recipe differs from the present recipe.
std::vector<Rebuild> AdapterRegistry::work(const AdapterState& next) const {
  std::vector<Rebuild> work;
  auto now = current();
  Recipes before, after;
  for (size_t c = 0; c < components_.size(); ++c) {
    const auto &old = now->state.components[c].fused, &fresh = next.components[c].fused;
    if (now->state.enabled == next.enabled && same(old, fresh) && base_.spoilt.empty()) continue;
    if (now->state.enabled) add_recipes(old, before);
    if (next.enabled) add_recipes(fresh, after);
  }
  for (auto& [site, wanted] : after) {
    auto was = before.find(site);
    if (was == before.end())
      work.push_back({site, {}, wanted, /*is_base=*/!base_.spoilt.contains(site)});
    else if (was->second != wanted || base_.spoilt.contains(site))
      work.push_back({site, was->second, wanted});
  }
  for (const auto& [site, was] : before)
    if (!after.contains(site)) work.push_back({site, was, {}});
  for (auto* site : base_.spoilt)
    if (!before.contains(site) && !after.contains(site)) work.push_back({site, {}, {}});
  std::sort(work.begin(), work.end(), [](auto& a, auto& b) {
    return std::pair(a.site->owner->component, a.site->index) < std::pair(b.site->owner->component, b.site->index);
  });
  return work;
}

std::shared_ptr<const AdapterSnapshot> AdapterRegistry::prepare(AdapterState next, const Rewrite& rewrite) const {
  auto before = current_;
  auto fresh = std::make_shared<AdapterSnapshot>();
  fresh->number = before ? before->number + 1 : 0;
  fresh->state = std::move(next);
  for (size_t c = 0; c < components_.size(); ++c) {
    const auto& parts = *components_[c].parts;
    auto weights = this->weights(fresh->state, c);
    if (!rewrite.empty()) {  // the weights after the rewrite
      weights.weight = [&](const Site& site) {
        auto made = rewrite.weight(site);
        return made.defined() ? made : site.weight;
      };
      weights.bias = [&](const Site& site) {
        auto made = rewrite.bias(site);
        return made.defined() ? made : site.bias;
      };
    }
    const Run* old = before ? before->runs[c].get() : nullptr;
    bool same_words = old && before->state.parts_version == fresh->state.parts_version;
    auto added = same_words ? old->added : added_rows(fresh->state, c, parts);
    fresh->runs.push_back(build_run(parts, fresh->state.acting(c), weights, std::move(added), old));
  }
  return fresh;
}

void AdapterRegistry::check_finite(const Rewrite& rewrite) const {
  std::vector<std::string> broken;
  for (auto* site : rewrite.non_finite()) broken.push_back(components_[site->owner->component].name + "." + site->path);
  check(broken.empty(), ErrorKind::unsupported,
        "fuse_lora: NaN or infinity would be in the weights of {} layers: {}; nothing was fused", broken.size(),
        listing(broken));
}

void AdapterRegistry::change(const std::function<void(AdapterState&)>& edit, Results results) {
  {
    std::lock_guard lock(changing_);
    auto next = current()->state;
    edit(next);
    if (work(next).empty()) return publish(prepare(std::move(next), Rewrite({}, base_)));
  }
  check(
      !SnapshotScope::inside(*this), ErrorKind::conflict,
      "weights cannot change inside a run of the same pipeline, such as in the callback of a step; change them between "
      "runs");
  Gate::Closed alone(gate());
  std::lock_guard lock(changing_);
  auto next = current()->state;
  edit(next);
  Rewrite rewrite(work(next), base_);
  if (results == Results::finite) check_finite(rewrite);
  auto fresh = prepare(std::move(next), rewrite);
  rewrite.write();
  publish(std::move(fresh));
}

}  // namespace lora
