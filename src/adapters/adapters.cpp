#include "adapters/adapters.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "adapters/stack.h"
#include "core/check.h"
#include "core/text.h"

namespace lora {

Adapters& Adapters::of(Parts& parts) {
  static std::mutex creating;
  std::lock_guard lock(creating);
  if (!parts.attached) parts.attached = std::make_shared<Adapters>(parts);
  return *std::static_pointer_cast<Adapters>(parts.attached);
}

// ---- What there is -------------------------------------------------------------------------------------------------

void Adapters::State::put(StackEntry entry) {
  auto it =
      std::find_if(loaded.begin(), loaded.end(), [&](auto& l) { return l->adapter->name == entry.adapter->name; });
  *it = std::make_shared<const StackEntry>(std::move(entry));
}

bool Adapters::State::is_fused(const Adapter* adapter) const {
  return std::any_of(fused.begin(), fused.end(), [&](auto& f) { return f.adapter.get() == adapter; });
}

bool Adapters::contains(const std::string& name) const {
  std::lock_guard lock(mutex_);
  return state_.find(name);
}

std::vector<std::string> Adapters::names() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& l : state_.loaded) names.push_back(l->adapter->name);
  return names;
}

std::vector<std::string> Adapters::active() const {
  std::lock_guard lock(mutex_);
  return state_.active;
}

std::vector<std::string> Adapters::fused() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& f : state_.fused)
    if (std::find(names.begin(), names.end(), f.adapter->name) == names.end()) names.push_back(f.adapter->name);
  return names;
}

bool Adapters::enabled() const {
  std::lock_guard lock(mutex_);
  return state_.enabled;
}

std::shared_ptr<const Adapter> Adapters::adapter(const std::string& name) const {
  {
    std::lock_guard lock(mutex_);
    if (auto* found = state_.find(name)) return found->adapter;
  }
  fail(ErrorKind::not_found, "no adapter \"{}\" is loaded; there are: {}", name, listing(names()));
}

Tensor Adapters::base(const Site& site) const {
  std::lock_guard lock(mutex_);
  return base_weight(site, base_).to(site.weight.device(), site.weight.scalar_type());
}

Tensor Adapters::base_bias(const Site& site) const {
  std::lock_guard lock(mutex_);
  auto bias = lora::base_bias(site, base_);
  return bias.defined() ? bias.to(site.weight.device(), site.weight.scalar_type()) : bias;
}

// ---- What is done with them ----------------------------------------------------------------------------------------

void Adapters::add(Adapter adapter) {
  auto fresh = std::make_shared<const Adapter>(std::move(adapter));
  update([&](State& state) {
    check(!state.find(fresh->name), ErrorKind::conflict,
          "an adapter \"{}\" is loaded already; give the new one another adapter_name or delete the old one first",
          fresh->name);
    state.active = {fresh->name};
    state.loaded.push_back(std::make_shared<const StackEntry>(StackEntry{fresh}));
  });
}

void Adapters::set(const std::vector<std::string>& names, const std::vector<SiteWeights>& weights) {
  update([&](State& state) {
    state.active.clear();
    for (size_t i = 0; i < names.size(); ++i) {
      auto* loaded = state.find(names[i]);
      if (!loaded) continue;
      state.put({loaded->adapter, weights[i]});
      if (std::find(state.active.begin(), state.active.end(), names[i]) == state.active.end())
        state.active.push_back(names[i]);
    }
  });
}

void Adapters::replace(Adapter adapter, bool active, const SiteWeights& weights) {
  auto fresh = std::make_shared<const Adapter>(std::move(adapter));
  update([&](State& state) {
    auto* loaded = state.find(fresh->name);
    if (!loaded) {
      state.loaded.push_back(std::make_shared<const StackEntry>(StackEntry{fresh, weights}));
      if (active) state.active.push_back(fresh->name);
      return;
    }
    for (auto& f : state.fused)
      if (f.adapter == loaded->adapter) f.adapter = fresh;
    state.put({fresh, loaded->weights});
  });
}

void Adapters::enable(bool on) {
  update([&](State& state) { state.enabled = on; });
}

void Adapters::remove(const std::vector<std::string>& names) {
  auto named = [&](const std::string& name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  update([&](State& state) {
    // One of the same name that was unloaded while it was fused is another adapter, and stays in the weights.
    std::erase_if(state.fused, [&](auto& f) {
      auto* loaded = state.find(f.adapter->name);
      return named(f.adapter->name) && loaded && loaded->adapter == f.adapter;
    });
    std::erase_if(state.loaded, [&](auto& l) { return named(l->adapter->name); });
    std::erase_if(state.active, named);
  });
}

void Adapters::unload() {
  update([](State& state) {
    state.loaded.clear();
    state.active.clear();
  });
}

void Adapters::to(const std::string& name, Device device) {
  update([&](State& state) {
    auto* loaded = state.find(name);
    if (!loaded) return;
    auto moved = std::make_shared<Adapter>(*loaded->adapter);
    for (auto& [site, delta] : moved->entries) delta = delta->to(device, site->weight.scalar_type());
    // What is fused keeps its place in the recipe: the same adapter, elsewhere.
    for (auto& f : state.fused)
      if (f.adapter == loaded->adapter) f.adapter = moved;
    state.put({std::move(moved), loaded->weights});
  });
}

// ---- Weights -------------------------------------------------------------------------------------------------------

void Adapters::State::fuse(const std::vector<std::string>& names, double lora_scale) {
  for (const auto& name : names) {
    auto* found = find(name);
    if (!found) continue;
    std::erase_if(fused, [&](auto& f) { return f.adapter == found->adapter; });
    fused.push_back({found->adapter, found->weights * lora_scale, lora_scale});
  }
}

void Adapters::fuse(const std::vector<std::string>& names, double lora_scale) {
  update([&](State& state) { state.fuse(names, lora_scale); });
}

void Adapters::unfuse(const std::vector<std::string>& names) {
  update([&](State& state) {
    std::erase_if(state.fused, [&](auto& f) {
      return names.empty() || std::find(names.begin(), names.end(), f.adapter->name) != names.end();
    });
  });
}

namespace {

// The recipe of each site that any of these adapters touches.
template <class List>
std::unordered_map<Site*, std::vector<Ingredient>> recipes(const List& fused) {
  std::unordered_map<Site*, std::vector<Ingredient>> all;
  for (const auto& [adapter, strengths, lora_scale] : fused)
    for (const auto& [site, delta] : adapter->entries)
      if (auto strength = strengths.at(site->index); strength != 0) all[site].push_back({delta.get(), strength});
  return all;
}

// The sites whose recipe differs, each with what it is to be.
std::vector<Rebuild> changes(const std::unordered_map<Site*, std::vector<Ingredient>>& before,
                             const std::unordered_map<Site*, std::vector<Ingredient>>& after) {
  std::vector<Rebuild> work;
  for (const auto& [site, ingredients] : after) {
    auto was = before.find(site);
    bool is_base = was == before.end();
    if (is_base || was->second != ingredients) work.push_back({site, ingredients, is_base});
  }
  for (const auto& [site, ingredients] : before)
    if (!after.contains(site)) work.push_back({site, {}});
  std::sort(work.begin(), work.end(), [](auto& a, auto& b) { return a.site->index < b.site->index; });
  return work;
}

}  // namespace

std::vector<Rebuild> Adapters::work(const State& next) const {
  const std::vector<Fused> none;
  return changes(recipes(state_.enabled ? state_.fused : none), recipes(next.enabled ? next.fused : none));
}

void Adapters::update(const std::function<void(State&)>& edit) {
  {
    std::lock_guard lock(mutex_);
    auto next = state_;
    edit(next);
    if (work(next).empty()) {
      state_ = std::move(next);
      return publish();
    }
  }
  check(!RunScope::running(parts_), ErrorKind::conflict,
        "weights cannot be changed from inside a run of the same model (a step's callback); do it between runs");
  std::unique_lock alone(parts_.in_use);
  std::lock_guard lock(mutex_);
  auto next = state_;
  edit(next);
  rebuild(work(next), base_);
  state_ = std::move(next);
  publish();
}

std::vector<std::string> Adapters::cannot_fuse(const std::vector<std::string>& names) const {
  std::lock_guard lock(mutex_);
  auto next = state_;
  next.fuse(names, 1);
  return without_bias(changes({}, recipes(next.fused)));
}

std::vector<std::string> Adapters::cannot_fuse(const Adapter& adapter) {
  std::vector<Rebuild> work;
  for (const auto& [site, delta] : adapter.entries) work.push_back({site, {{delta.get(), 1}}});
  return without_bias(work);
}

std::optional<double> Adapters::fused_scale(const std::string& name) const {
  std::lock_guard lock(mutex_);
  if (auto* loaded = state_.find(name))
    for (const auto& f : state_.fused)
      if (f.adapter == loaded->adapter) return f.lora_scale;
  return std::nullopt;
}

std::vector<std::string> Adapters::would_break(const std::vector<std::string>& names, double lora_scale) const {
  std::lock_guard lock(mutex_);
  auto next = state_;
  next.fuse(names, lora_scale);
  return non_finite(changes({}, recipes(next.fused)), base_);
}

namespace {

// A word that several adapters have is in all of them the same (see LoraBaseMixin).
std::shared_ptr<const AddedRows> added_rows(const LoadedAdapters& loaded, const Parts& parts) {
  std::vector<Tensor> rows;
  std::vector<AddedWord> words;
  std::set<std::string> seen;
  int64_t next = parts.vocabulary ? parts.vocabulary->weight.size(0) : 0;
  for (const auto& entry : loaded)
    for (const auto& [text, vectors] : entry->adapter->words) {
      if (!seen.insert(text).second) continue;
      rows.push_back(vectors);
      auto& ids = words.emplace_back(AddedWord{text, std::vector<int64_t>(vectors.size(0))}).ids;
      std::iota(ids.begin(), ids.end(), next);
      next += vectors.size(0);
    }
  if (rows.empty()) return nullptr;
  return std::make_shared<const AddedRows>(AddedRows{at::cat(rows), std::move(words)});
}

}  // namespace

void Adapters::publish() {
  auto state = std::make_shared<AdapterState>(
      AdapterState{.loaded = state_.loaded, .base = &base_, .added = added_rows(state_.loaded, parts_)});
  if (state_.enabled) {
    for (const auto& f : state_.fused) state->fused.push_back(f.adapter);
    for (const auto& name : state_.active)
      if (auto* loaded = state_.find(name); loaded && !state_.is_fused(loaded->adapter.get()))
        state->applying.push_back(*loaded);
  }
  auto run = stack_.run(state->applying, *state);
  run->state = std::move(state);
  parts_.publish(std::move(run));
}

}  // namespace lora
