#include "adapters/registry.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
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
      if (auto strength = f.in_weights.at(site->index); strength != 0) recipes[site].push_back({delta.get(), strength});
}

// Whether two lists of fused adapters give the same weights.
bool same(const std::vector<FusedAdapter>& a, const std::vector<FusedAdapter>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](auto& x, auto& y) { return x.adapter == y.adapter && x.in_weights == y.in_weights; });
}

// All words that are loaded, alone or with adapters; nullptr if there are none. If a word is loaded several times, its
// vectors are the same (see beside_loaded).
std::shared_ptr<const AddedRows> added_rows(const AdapterState& state, size_t component, const Parts& parts) {
  std::vector<Tensor> rows;
  std::vector<AddedWord> words;
  std::set<std::string> seen;
  int64_t next = parts.vocabulary ? parts.vocabulary->weight.size(0) : 0;
  auto add = [&](const LoadedAdapter& loaded) {
    const auto& part = loaded.parts[component].adapter;
    if (!part) return;
    for (const auto& [text, vectors] : part->words) {
      if (!seen.insert(text).second) continue;
      rows.push_back(vectors);
      auto& ids = words.emplace_back(AddedWord{text, std::vector<int64_t>(size_t(vectors.size(0)))}).ids;
      std::iota(ids.begin(), ids.end(), next);
      next += vectors.size(0);
    }
  };
  for (const auto& adapter : state.loaded) add(*adapter);
  for (const auto& word : state.textual_inversions) add(*word);
  if (rows.empty()) return nullptr;
  return std::make_shared<const AddedRows>(AddedRows{at::cat(rows), std::move(words)});
}

// The base weight of a site if one of these adapters is fused into it; otherwise undefined.
Tensor base_under(const std::vector<FusedAdapter>& fused, const Site& site, const BaseWeights& base) {
  for (const auto& f : fused) {
    const auto& entries = f.adapter->entries;
    auto it = std::lower_bound(entries.begin(), entries.end(), site.index,
                               [](auto& entry, size_t index) { return entry.site->index < index; });
    if (it != entries.end() && it->site == &site && f.in_weights.at(site.index) != 0) return base.weight(site);
  }
  return {};
}

bool must_be_divided(const FusedAdapter& fused) { return !fused.is_divided; }

bool must_be_divided(const AdapterState& state) {
  return state.enabled && std::any_of(state.components.begin(), state.components.end(), [](auto& c) {
           return std::any_of(c.fused.begin(), c.fused.end(), [](auto& fused) { return must_be_divided(fused); });
         });
}

// Moves the strength at a site from the weights to the factors. Returns whether there was any.
bool keep_as_factors(FusedAdapter& fused, const Site& site) {
  const auto strength = fused.in_weights.at(site.index);
  const auto& entries = fused.adapter->entries;
  if (strength == 0 || std::none_of(entries.begin(), entries.end(), [&](auto& e) { return e.site == &site; }))
    return false;
  for (auto* weights : {&fused.in_weights, &fused.as_factors})
    if (weights->by_site.empty()) weights->by_site.assign(site.owner->sites.size(), weights->number);
  std::swap(fused.in_weights.by_site[site.index], fused.as_factors.by_site[site.index]);
  return true;
}

// The state without the adapters that must be divided in the next state: all their sites change.
AdapterState without_undivided(AdapterState now, const AdapterState& next) {
  for (size_t c = 0; c < now.components.size(); ++c)
    for (const auto& fresh : next.components[c].fused)
      if (must_be_divided(fresh))
        std::erase_if(now.components[c].fused, [&](auto& fused) { return fused.id == fresh.id; });
  return now;
}

// Divides the adapters with a max_loss. Marks the changes that do not go into the weights. Returns whether there are
// such changes.
bool divide(AdapterState& state, std::vector<SiteChange>& changes) {
  bool any = false;
  if (!state.enabled) return any;
  for (auto& change : changes)
    for (auto& fused : state.components[change.site->owner->component].fused)
      if (must_be_divided(fused) && change.sums.loss() > *fused.max_loss && keep_as_factors(fused, *change.site))
        any = change.stays_active = true;
  for (auto& c : state.components)
    for (auto& fused : c.fused) fused.is_divided = true;
  return any;
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
  return {.weight = present_weight, .bias = present_bias, .base = [this, fused](const Site& site) {
            return base_under(*fused, site, base_);
          }};
}

// ---- Changes --------------------------------------------------------------------------------------------------------

// The sites whose recipe differs from the present recipe.
std::vector<Rebuild> AdapterRegistry::work(const AdapterState& now, const AdapterState& next) const {
  std::vector<Rebuild> work;
  Recipes before, after;
  for (size_t c = 0; c < components_.size(); ++c) {
    const auto &old = now.components[c].fused, &fresh = next.components[c].fused;
    if (now.enabled == next.enabled && same(old, fresh) && base_.spoilt.empty()) continue;
    if (now.enabled) add_recipes(old, before);
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
        return made.defined() ? made : present_weight(site);
      };
      weights.bias = [&](const Site& site) {
        auto made = rewrite.bias(site);
        return made.defined() ? made : present_bias(site);
      };
    }
    const Run* old = before ? before->runs[c].get() : nullptr;
    bool same_words = old && before->state.parts_version == fresh->state.parts_version;
    auto added = same_words ? old->added : added_rows(fresh->state, c, parts);
    fresh->runs.push_back(build_run(parts, fresh->state.acting(c), weights, std::move(added), old));
  }
  return fresh;
}

void AdapterRegistry::check_finite(const std::vector<SiteChange>& changes) const {
  std::vector<std::string> broken;
  for (const auto& [site, sums, stays_active] : changes)
    if (sums.not_finite > 0 && !stays_active)
      broken.push_back(components_[site->owner->component].name + "." + site->path);
  check(broken.empty(), ErrorKind::unsupported,
        "fuse_lora: NaN or infinity would be in the weights of {}: {}; nothing was fused",
        counted(broken.size(), "layer"), listing(broken));
}

std::vector<SiteChange> AdapterRegistry::change(const Edit& edit, Results results) {
  {
    std::lock_guard lock(changing_);
    const auto now = current();
    auto next = now->state;
    edit(next);
    if (work(now->state, next).empty() && !must_be_divided(next)) {
      publish(prepare(std::move(next), Rewrite({}, base_)));
      return {};
    }
  }
  check(
      !SnapshotScope::inside(*this), ErrorKind::conflict,
      "weights cannot change inside a run of the same pipeline, such as in the callback of a step; change them between "
      "runs");
  Gate::Closed alone(gate());
  std::lock_guard lock(changing_);
  const auto now = current();
  auto next = now->state;
  edit(next);
  auto planned = work(now->state, next);
  std::vector<SiteChange> all;  // first what stays active
  if (results == Results::finite || must_be_divided(next)) {
    auto measured = measure(without_undivided(now->state, next), next);
    if (divide(next, measured)) planned = work(now->state, next);
    if (results == Results::finite) check_finite(measured);
    std::copy_if(measured.begin(), measured.end(), std::back_inserter(all), [](auto& c) { return c.stays_active; });
  }
  all.reserve(all.size() + planned.size());  // after the write, nothing may fail
  Rewrite rewrite(std::move(planned), base_);
  auto fresh = prepare(std::move(next), rewrite);
  const auto written = rewrite.write();
  publish(std::move(fresh));
  all.insert(all.end(), written.begin(), written.end());
  std::sort(all.begin(), all.end(), is_before);
  return all;
}

std::vector<SiteChange> AdapterRegistry::measure(const Edit& edit) const {
  const SnapshotScope scope(*this);
  auto now = of(scope).state;
  auto next = now;
  edit(next);
  next.enabled = true;
  for (auto& c : now.components) c.fused.clear();
  auto measured = measure(now, next);
  divide(next, measured);
  return measured;
}

// What the sites whose recipe differs between the two states get from the second one.
std::vector<SiteChange> AdapterRegistry::measure(const AdapterState& before, const AdapterState& next) const {
  auto planned = work(before, next);
  for (auto& rebuild : planned) rebuild.is_base = false;  // `before` may not be the present state
  return lora::measure(planned, base_);
}

}  // namespace lora
