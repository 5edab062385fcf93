#include "adapters/state.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "core/text.h"

namespace lora {

namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_without_numbers(const Adapter& adapter) {
  return !adapter.entries.empty() && adapter.entries.front().delta->device().is_meta();
}

auto has_id(uint64_t id) {
  return [id](const FusedAdapter& fused) { return fused.id == id; };
}

}  // namespace

// ---- Reading --------------------------------------------------------------------------------------------------------

const LoadedAdapter* AdapterState::find(const std::string& name) const {
  auto it = std::find_if(loaded.begin(), loaded.end(), [&](auto& l) { return l->name == name; });
  return it == loaded.end() ? nullptr : it->get();
}

std::shared_ptr<const Adapter> AdapterState::part(const std::string& name, size_t component) const {
  auto* found = find(name);
  if (found && found->parts[component].adapter) return found->parts[component].adapter;
  fail(ErrorKind::not_found, "no adapter \"{}\" is loaded; loaded adapters: {}", name, listing(names(component)));
}

std::vector<std::string> AdapterState::names(size_t component) const {
  std::vector<std::string> all;
  for (const auto& l : loaded)
    if (l->parts[component].adapter) all.push_back(l->name);
  return all;
}

bool AdapterState::is_active(const std::string& name) const {
  return std::any_of(components.begin(), components.end(), [&](auto& c) { return contains(c.active, name); });
}

const FusedAdapter* AdapterState::fused_as(const std::string& name) const {
  auto* adapter = find(name);
  if (!adapter) return nullptr;
  for (const auto& c : components)
    if (auto it = std::find_if(c.fused.begin(), c.fused.end(), has_id(adapter->id)); it != c.fused.end()) return &*it;
  return nullptr;
}

bool AdapterState::is_fused(const LoadedAdapter& adapter, size_t component) const {
  const auto& fused = components[component].fused;
  return enabled && std::any_of(fused.begin(), fused.end(), has_id(adapter.id));
}

std::vector<ActingAdapter> AdapterState::beside_weights(size_t component) const {
  std::vector<ActingAdapter> all;
  if (!enabled) return all;
  for (const auto& f : components[component].fused)
    if (!f.as_factors.none())
      all.push_back({.name = f.name, .adapter = f.adapter, .weights = f.as_factors, .images = {}, .mask = {}});
  return all;
}

std::vector<ActingAdapter> AdapterState::acting(size_t component) const {
  auto all = beside_weights(component);
  if (!enabled) return all;
  for (const auto& name : components[component].active) {
    auto* adapter = find(name);
    if (!adapter || !adapter->parts[component].adapter || is_fused(*adapter, component)) continue;
    const auto& part = adapter->parts[component];
    all.push_back({.name = name, .adapter = part.adapter, .weights = part.weights, .images = {}, .mask = {}});
  }
  return all;
}

void FusedAdapter::join() {
  in_weights = strengths;
  as_factors = {.number = 0, .by_site = {}};
  is_divided = !max_loss;
}

// ---- Edits ----------------------------------------------------------------------------------------------------------

LoadedAdapter AdapterState::copy(const std::string& name) const {
  auto* found = find(name);
  check(found, ErrorKind::not_found, "no adapter \"{}\" is loaded", name);
  return *found;
}

void AdapterState::put(LoadedAdapter adapter) {
  auto it = std::find_if(loaded.begin(), loaded.end(), [&](auto& l) { return l->name == adapter.name; });
  auto entry = std::make_shared<const LoadedAdapter>(std::move(adapter));
  if (it == loaded.end())
    loaded.push_back(std::move(entry));
  else
    *it = std::move(entry);
}

std::string AdapterState::new_name(const std::string& wanted) {
  if (wanted.empty()) {
    std::string name;
    do name = fmt::format("default_{}", next_default++);
    while (find(name));
    return name;
  }
  check(
      !find(wanted), ErrorKind::conflict,
      "an adapter \"{}\" is loaded already; give the new adapter another adapter_name, or delete the loaded one first",
      wanted);
  return wanted;
}

void AdapterState::add(const std::string& name, const AdapterParts& parts) {
  ++parts_version;
  LoadedAdapter fresh{.name = name, .id = next_id++, .scale = 1.0, .parts = {}};
  for (size_t c = 0; c < components.size(); ++c) {
    fresh.parts.push_back({parts[c], {}});
    components[c].active.clear();
    if (parts[c]) components[c].active.push_back(name);
  }
  put(std::move(fresh));
}

void AdapterState::add_part(const std::string& name, size_t component, std::shared_ptr<const Adapter> part,
                            double weight) {
  ++parts_version;
  LoadedAdapter adapter{.name = name, .id = next_id, .scale = 1.0, .parts = {}};
  if (find(name))
    adapter = copy(name);
  else
    adapter.parts.resize(components.size()), ++next_id;
  adapter.parts[component] = {std::move(part), {.number = weight, .by_site = {}}};
  components[component].active = {name};
  put(std::move(adapter));
}

void AdapterState::replace_part(const std::string& name, size_t component, std::shared_ptr<const Adapter> part) {
  ++parts_version;
  auto adapter = copy(name);
  auto& fused = components[component].fused;
  for (auto& f : fused)
    if (f.id == adapter.id) {
      f.adapter = part;
      f.join();
    }
  if (!part) {
    std::erase_if(fused, has_id(adapter.id));
    std::erase(components[component].active, name);
  }
  adapter.parts[component].adapter = std::move(part);
  put(std::move(adapter));
}

void AdapterState::replace(const std::string& name, const AdapterParts& parts,
                           const std::vector<SiteWeights>& weights) {
  const bool active = is_active(name);
  const auto* as = fused_as(name);
  const bool fused = as != nullptr;
  const auto lora_scale = fused ? as->lora_scale : 1;
  const auto max_loss = fused ? as->max_loss : std::nullopt;
  for (size_t c = 0; c < components.size(); ++c) {
    const bool gained = parts[c] && !find(name)->parts[c].adapter;
    replace_part(name, c, parts[c]);
    if (!gained) continue;
    auto adapter = copy(name);
    adapter.parts[c].weights = weights[c];
    put(std::move(adapter));
    if (active) components[c].active.push_back(name);
    if (fused) fuse({name}, c, lora_scale, max_loss);
  }
}

void AdapterState::set(const std::vector<std::string>& names, const std::vector<LoraScale>& scales,
                       const std::vector<std::vector<SiteWeights>>& weights) {
  for (auto& c : components) c.active.clear();
  for (size_t i = 0; i < names.size(); ++i) {
    auto adapter = copy(names[i]);
    adapter.scale = scales[i];
    for (size_t c = 0; c < components.size(); ++c) {
      if (!adapter.parts[c].adapter) continue;
      adapter.parts[c].weights = weights[i][c];
      if (!contains(components[c].active, names[i])) components[c].active.push_back(names[i]);
    }
    put(std::move(adapter));
  }
}

void AdapterState::remove(const std::vector<std::string>& names) {
  ++parts_version;
  for (const auto& name : names) {
    auto* adapter = find(name);
    if (!adapter) continue;
    for (auto& c : components) {
      // A fused adapter that was unloaded may have the same name. It has another id and stays in the weights.
      std::erase_if(c.fused, has_id(adapter->id));
      std::erase(c.active, name);
    }
    std::erase_if(loaded, [&](auto& l) { return l.get() == adapter; });
  }
}

void AdapterState::unload() {
  ++parts_version;
  loaded.clear();
  for (auto& c : components) c.active.clear();
}

void AdapterState::fuse(const std::vector<std::string>& names, size_t component, double lora_scale,
                        std::optional<double> max_loss) {
  auto& fused = components[component].fused;
  for (const auto& name : names) {
    auto* adapter = find(name);
    if (!adapter || !adapter->parts[component].adapter) continue;
    const auto& [part, weights] = adapter->parts[component];
    check(!is_without_numbers(*part), ErrorKind::conflict,
          "adapter \"{}\" cannot be fused: it was moved to the device meta, which does not keep numbers; load it again",
          name);
    std::erase_if(fused, has_id(adapter->id));
    FusedAdapter fresh{.name = name,
                       .id = adapter->id,
                       .adapter = part,
                       .strengths = weights * lora_scale,
                       .lora_scale = lora_scale,
                       .max_loss = max_loss};
    fresh.join();
    fused.push_back(std::move(fresh));
  }
}

void AdapterState::unfuse(const std::vector<std::string>& names, size_t component) {
  std::erase_if(components[component].fused, [&](auto& f) { return names.empty() || contains(names, f.name); });
}

void AdapterState::add_textual_inversion(const std::string& word, const AdapterParts& parts) {
  ++parts_version;
  LoadedAdapter fresh{.name = word, .id = next_id++, .scale = 1.0, .parts = {}};
  for (const auto& part : parts) fresh.parts.push_back({part, {}});
  textual_inversions.push_back(std::make_shared<const LoadedAdapter>(std::move(fresh)));
}

void AdapterState::remove_textual_inversions(const std::vector<std::string>& words) {
  ++parts_version;
  std::erase_if(textual_inversions, [&](auto& word) { return contains(words, word->name); });
}

void AdapterState::move(const std::string& name, Device device) {
  ++parts_version;
  auto adapter = copy(name);
  for (auto& [part, weights] : adapter.parts) {
    if (!part) continue;
    check(device.is_meta() || !is_without_numbers(*part), ErrorKind::conflict,
          "adapter \"{}\" cannot be moved: it was moved to the device meta, which does not keep numbers; load it again",
          name);
    auto moved = std::make_shared<Adapter>(*part);
    for (auto& [site, delta] : moved->entries) delta = delta->to(device, site->weight.scalar_type());
    part = std::move(moved);
  }
  put(std::move(adapter));
}

}  // namespace lora
