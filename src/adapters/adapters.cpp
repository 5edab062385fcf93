#include "adapters/adapters.h"

#include <algorithm>

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

const Adapters::Loaded* Adapters::find(const std::string& name) const {
  auto it = std::find_if(loaded_.begin(), loaded_.end(), [&](auto& l) { return l.adapter->name == name; });
  return it == loaded_.end() ? nullptr : &*it;
}

Adapters::Loaded* Adapters::find(const std::string& name) {
  return const_cast<Loaded*>(std::as_const(*this).find(name));
}

bool Adapters::contains(const std::string& name) const {
  std::lock_guard lock(mutex_);
  return find(name);
}

std::vector<std::string> Adapters::names() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& l : loaded_) names.push_back(l.adapter->name);
  return names;
}

std::vector<std::string> Adapters::active() const {
  std::lock_guard lock(mutex_);
  return active_;
}

std::vector<std::string> Adapters::fused() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& f : fused_)
    if (std::find(names.begin(), names.end(), f.adapter->name) == names.end()) names.push_back(f.adapter->name);
  return names;
}

const Adapter& Adapters::adapter(const std::string& name) const {
  std::lock_guard lock(mutex_);
  auto* found = find(name);
  check(found, ErrorKind::not_found, "no adapter \"{}\" is loaded; there are: {}", name, listing(names()));
  return *found->adapter;
}

void Adapters::add(Adapter adapter) {
  std::lock_guard lock(mutex_);
  check(!find(adapter.name), ErrorKind::conflict,
        "an adapter \"{}\" is loaded already; give the new one another adapter_name or delete the old one first",
        adapter.name);
  active_ = {adapter.name};
  loaded_.push_back({std::make_shared<const Adapter>(std::move(adapter))});
  publish();
}

void Adapters::set(const std::vector<std::string>& names, const std::vector<double>& weights) {
  std::lock_guard lock(mutex_);
  active_.clear();
  for (size_t i = 0; i < names.size(); ++i) {
    auto* loaded = find(names[i]);
    if (!loaded) continue;
    loaded->weight = weights[i];
    if (std::find(active_.begin(), active_.end(), names[i]) == active_.end()) active_.push_back(names[i]);
  }
  publish();
}

void Adapters::enable(bool on) {
  std::lock_guard lock(mutex_);
  write(fused_, on);
  publish();
}

void Adapters::remove(const std::vector<std::string>& names) {
  std::lock_guard lock(mutex_);
  auto named = [&](const std::string& name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  auto kept = fused_;
  std::erase_if(kept, [&](auto& f) { return named(f.adapter->name) && find(f.adapter->name); });
  write(std::move(kept), enabled_);
  loaded_.remove_if([&](auto& l) { return named(l.adapter->name); });
  std::erase_if(active_, named);
  publish();
}

void Adapters::unload() {
  std::lock_guard lock(mutex_);
  loaded_.clear();
  active_.clear();
  publish();
}

bool Adapters::is_fused(const Adapter* adapter) const {
  return std::any_of(fused_.begin(), fused_.end(), [&](auto& f) { return f.adapter.get() == adapter; });
}

std::vector<Adapters::Fused> Adapters::with_fused(const std::vector<std::string>& names, double lora_scale) const {
  auto wanted = fused_;
  for (const auto& name : names) {
    auto* loaded = find(name);
    if (!loaded) continue;
    std::erase_if(wanted, [&](auto& f) { return f.adapter == loaded->adapter; });
    wanted.push_back({loaded->adapter, loaded->weight * lora_scale});
  }
  return wanted;
}

namespace {

// The recipe of each site that any of these adapters touches.
template <class List>
std::unordered_map<Site*, std::vector<Ingredient>> recipes(const List& fused) {
  std::unordered_map<Site*, std::vector<Ingredient>> all;
  for (const auto& [adapter, strength] : fused)
    for (const auto& [site, delta] : adapter->entries) all[site].push_back({delta.get(), strength});
  return all;
}

bool same(const std::vector<Ingredient>& a, const std::vector<Ingredient>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](auto& x, auto& y) { return x.delta == y.delta && x.strength == y.strength; });
}

// The sites whose recipe differs, each with what it is to be.
std::vector<Rebuild> changes(const std::unordered_map<Site*, std::vector<Ingredient>>& before,
                             const std::unordered_map<Site*, std::vector<Ingredient>>& after) {
  std::vector<Rebuild> work;
  for (const auto& [site, ingredients] : after) {
    auto was = before.find(site);
    bool is_base = was == before.end();
    if (is_base || !same(was->second, ingredients)) work.push_back({site, ingredients, is_base});
  }
  for (const auto& [site, ingredients] : before)
    if (!after.contains(site)) work.push_back({site, {}});
  std::sort(work.begin(), work.end(), [](auto& a, auto& b) { return a.site->index < b.site->index; });
  return work;
}

}  // namespace

void Adapters::write(std::vector<Fused> wanted, bool enabled) {
  const std::vector<Fused> none;
  auto work = changes(recipes(enabled_ ? fused_ : none), recipes(enabled ? wanted : none));
  if (!work.empty()) {
    check(!RunScope::running(parts_), ErrorKind::conflict,
          "weights cannot be changed from inside a run of the same model (a step's callback); do it between runs");
    std::unique_lock alone(parts_.in_use);
    rebuild(work, base_);
  }
  fused_ = std::move(wanted);
  enabled_ = enabled;
}

std::vector<std::string> Adapters::would_break(const std::vector<std::string>& names, double lora_scale) const {
  std::lock_guard lock(mutex_);
  return non_finite(changes(recipes(fused_), recipes(with_fused(names, lora_scale))), base_);
}

void Adapters::fuse(const std::vector<std::string>& names, double lora_scale) {
  std::lock_guard lock(mutex_);
  write(with_fused(names, lora_scale), enabled_);
  publish();
}

void Adapters::unfuse(const std::vector<std::string>& names) {
  std::lock_guard lock(mutex_);
  auto kept = fused_;
  std::erase_if(kept, [&](auto& f) {
    return names.empty() || std::find(names.begin(), names.end(), f.adapter->name) != names.end();
  });
  write(std::move(kept), enabled_);
  publish();
}

void Adapters::to(const std::string& name, Device device) {
  std::lock_guard lock(mutex_);
  auto* loaded = find(name);
  if (!loaded) return;
  auto moved = std::make_shared<Adapter>(*loaded->adapter);
  for (auto& [site, delta] : moved->entries) delta = delta->to(device, site->weight.scalar_type());
  // What is fused keeps its place in the recipe: the same adapter, elsewhere.
  for (auto& f : fused_)
    if (f.adapter == loaded->adapter) f.adapter = moved;
  loaded->adapter = std::move(moved);
  publish();
}

void Adapters::publish() {
  std::vector<ActiveAdapter> applying;
  if (enabled_)
    for (const auto& name : active_)
      if (auto* loaded = find(name); loaded && !is_fused(loaded->adapter.get()))
        applying.push_back({loaded->adapter.get(), loaded->weight});
  parts_.publish(stack(parts_, applying));
}

}  // namespace lora
