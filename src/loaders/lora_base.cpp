// LoraBaseMixin: each change is one edit of the registry's state, each question is answered from one snapshot.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "io/public_call.h"
#include "loaders/bundled_words.h"
#include "loaders/metadata.h"
#include "loaders/read_lora.h"
#include "loaders/registry_of.h"
#include "loaders/scales.h"
#include "loaders/stage.h"
#include "models/parts_of.h"

namespace lora {

namespace {

using Names = std::vector<std::string>;

void add_once(Names& all, const std::string& name) {
  if (std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
}

std::map<std::string, Names> list_of(const AdapterState& state, const AdapterRegistry& registry) {
  std::map<std::string, Names> all;
  for (size_t c = 0; c < registry.components().size(); ++c)
    if (auto names = state.names(c); !names.empty()) all[registry.components()[c].name] = std::move(names);
  return all;
}

// Names that are active or fused in any component, each once.
Names active_in(const AdapterState& state) {
  Names all;
  for (const auto& c : state.components)
    for (const auto& name : c.active) add_once(all, name);
  return all;
}

Names fused_in(const AdapterState& state) {
  Names all;
  for (const auto& c : state.components)
    for (const auto& fused : c.fused) add_once(all, fused.name);
  return all;
}

std::vector<size_t> chosen_components(const AdapterRegistry& registry, const Names& names) {
  std::vector<size_t> chosen;
  for (const auto& name : names) chosen.push_back(registry.index_of(name));
  if (names.empty())
    for (size_t c = 0; c < registry.components().size(); ++c) chosen.push_back(c);
  return chosen;
}

// Adds the paths of layers that do not have a bias, where the adapter adds one. It can be active there, but not fused.
void add_unfusable(const Adapter& adapter, const SiteWeights& weights, const std::string& component, Names& paths) {
  for (const auto& [site, delta] : adapter.entries)
    if (!site->bias.defined() && delta->has_bias() && weights.at(site->index) != 0)
      paths.push_back(component + "." + site->path);
}

void note_unused(const LoraSource& source, const HubOptions& hub, LoadReport& report) {
  if (source.is_repository()) return;
  Names given;
  if (!hub.cache_dir.empty()) given.push_back("cache_dir");
  if (hub.force_download) given.push_back("force_download");
  if (!hub.proxies.empty()) given.push_back("proxies");
  if (hub.local_files_only) given.push_back("local_files_only");
  if (hub.token.use() != HubToken::Use::if_any) given.push_back("token");
  if (!hub.revision.empty()) given.push_back("revision");
  if (!given.empty())
    report.notes.push_back(
        fmt::format("{} had no effect: the source is not a repository on the Hub", join(given, ", ")));
}

void check_strict(bool strict, const LoadReport& report) {
  if (!strict || report.unmatched.empty()) return;
  Names keys;
  for (const auto& u : report.unmatched) keys.push_back(fmt::format("{} ({})", u.key, u.reason));
  fail(ErrorKind::bad_key, "{}: `strict` was asked for, and the model does not match {}: {}; nothing was loaded",
       report.source, counted(keys.size(), "key"), listing(keys, 4));
}

// Reads a source and stages all of it.
StagedLoad staged_source(const LoraSource& source, const LoadLoraOptions& options, const AdapterRegistry& registry) {
  auto file = read_lora(source,
                        {.hub = options.hub,
                         .subfolder = options.subfolder,
                         .weight_name = options.weight_name,
                         .use_safetensors = options.use_safetensors,
                         .partial = options.partial},
                        registry.components().front().name);
  auto staged = stage(file, registry, chosen_components(registry, {}));
  check_strict(options.strict, staged.report);
  return staged;
}

// The component that a model is. Throws Error{usage} for another pipeline's.
size_t component_of(const AdapterRegistry& registry, Model& model) {
  auto parts = shared_parts_of(model);
  const auto& components = registry.components();
  auto it = std::find_if(components.begin(), components.end(), [&](auto& c) { return c.parts == parts; });
  check(it != components.end(), ErrorKind::usage,
        "this {} is not one of this pipeline's models; adapters can only be loaded into those", model.class_name());
  return size_t(it - components.begin());
}

// Weights by name, then by component.
std::vector<std::vector<SiteWeights>> resolved(const OneOrMany<std::string>& names,
                                               const std::vector<LoraScale>& scales, const AdapterRegistry& registry) {
  std::vector<std::vector<SiteWeights>> weights(names.size());
  for (size_t i = 0; i < names.size(); ++i)
    for (const auto& c : registry.components()) weights[i].push_back(resolve(scales[i], c.name, *c.parts, names[i]));
  return weights;
}

}  // namespace

// ---- The pipeline's registry ----------------------------------------------------------------------------------------

LoraBaseMixin::LoraBaseMixin() = default;
LoraBaseMixin::LoraBaseMixin(LoraBaseMixin&&) noexcept = default;
LoraBaseMixin::~LoraBaseMixin() = default;

void LoraBaseMixin::adapt(const std::vector<std::pair<std::string, Model*>>& components) {
  std::vector<AdapterRegistry::Component> all;
  for (const auto& [name, model] : components) all.push_back({name, shared_parts_of(*model)});
  registry_ = public_call([&] { return std::make_unique<AdapterRegistry>(std::move(all)); });
}

namespace {

AdapterRegistry& present(const std::unique_ptr<AdapterRegistry>& registry) {
  check(registry != nullptr, ErrorKind::usage, "this pipeline was moved to another object; call it there");
  return *registry;
}

}  // namespace

AdapterRegistry& registry_of(LoraBaseMixin& mixin) { return present(mixin.registry_); }
const AdapterRegistry& registry_of(const LoraBaseMixin& mixin) { return present(mixin.registry_); }

void check_known(const AdapterState& state, const AdapterRegistry& registry, const Names& names) {
  for (const auto& name : names) {
    if (state.find(name)) continue;
    Names known;
    for (const auto& [component, there] : list_of(state, registry))
      for (const auto& each : there) add_once(known, each);
    fail(ErrorKind::not_found, "the adapter \"{}\" is not loaded; {}", name,
         known.empty() ? "no adapter is" : "these are: " + listing(known));
  }
}

// ---- Loading --------------------------------------------------------------------------------------------------------

void LoraBaseMixin::check_new_words(const std::vector<std::shared_ptr<const Adapter>>& parts, const AdapterState& state,
                                    const std::string& replaced, const std::string& source, bool are_no_tokens) const {
  const auto& components = registry_of(*this).components();
  for (size_t c = 0; c < parts.size(); ++c) {
    if (!parts[c] || parts[c]->words.empty()) continue;
    auto all = beside_loaded(parts[c]->words, state, c, replaced, source);
    for (auto& word : all) word.is_no_token = are_no_tokens && parts[c]->words.contains(word.text);
    try {
      check_words(components[c].name, all);
    } catch (const Error& error) {
      fail(error.kind(), "{}: {}: {}; nothing was loaded", source, components[c].name, error.what());
    }
  }
}

LoraStateDict LoraBaseMixin::lora_state_dict(const LoraSource& source, const ReadLoraOptions& options) const {
  return public_call(
      [&] { return as_state_dict(read_lora(source, options, registry_of(*this).components().front().name)); });
}

LoadReport LoraBaseMixin::match_lora(const LoraSource& source, const LoadLoraOptions& options) const {
  return public_call([&] {
    auto staged = staged_source(source, options, registry_of(*this));
    check_new_words(staged.parts, registry_of(*this).current()->state, options.hotswap ? options.adapter_name : "",
                    staged.report.source);
    return std::move(staged.report);
  });
}

LoadReport LoraBaseMixin::load_lora_weights(const LoraSource& source, const LoadLoraOptions& options) {
  return public_call([&] {
    auto& registry = registry_of(*this);
    check(!options.hotswap || !options.adapter_name.empty(), ErrorKind::usage,
          "hotswap: adapter_name must say which adapter is replaced");
    auto staged = staged_source(source, options, registry);
    const auto& parts = staged.parts;
    auto& report = staged.report;
    note_unused(source, options.hub, report);
    const auto& replaced = options.hotswap ? options.adapter_name : std::string();
    registry.change([&](AdapterState& state) {
      check_known(state, registry, options.hotswap ? Names{replaced} : Names{});
      check_new_words(parts, state, replaced, report.source);
      if (!options.hotswap) {
        report.adapter_name = state.new_name(options.adapter_name);
        return state.add(report.adapter_name, parts);
      }
      report.adapter_name = replaced;
      auto weights = resolved(replaced, {state.find(replaced)->scale}, registry).front();
      if (state.fused_as(replaced)) {
        Names impossible;
        for (size_t c = 0; c < parts.size(); ++c)
          if (parts[c]) add_unfusable(*parts[c], {}, registry.components()[c].name, impossible);
        check(impossible.empty(), ErrorKind::unsupported,
              "{}: hotswap: \"{}\" is fused, and this file adds a bias to {} without one: {}; nothing was changed",
              report.source, replaced, counted(impossible.size(), "layer"), listing(impossible));
      }
      state.replace(replaced, parts, weights);
    });
    return std::move(report);
  });
}

LoadReport LoraBaseMixin::load_into(Model& model, const std::string& prefix, const StateDict& state_dict,
                                    const std::map<std::string, double>& network_alphas, const LoadIntoOptions& options,
                                    double weight) {
  return public_call([&] {
    auto& registry = registry_of(*this);
    const auto component = component_of(registry, model);
    const auto& name = registry.components()[component].name;
    auto file =
        named("state dict", [&] { return lora_file_of(state_dict, network_alphas, prefix, name, options.partial); });
    if (!options.metadata.empty()) {
      check(network_alphas.empty(), ErrorKind::usage,
            "{}: metadata and network_alphas were both given; each says how strong the layers are, so give only one",
            name);
      file.metadata[kAdapterMetadata] = prefixed_metadata(options.metadata, name);
    }
    named(file.source, [&] { apply_configs(file); });
    auto staged = stage(file, registry, {component});
    const auto& parts = staged.parts;
    auto& report = staged.report;
    registry.change([&](AdapterState& state) {
      check_new_words(parts, state, options.hotswap ? options.adapter_name : "", report.source);
      // One name may be spread over components by one call each; within a component it must be new.
      auto* loaded = options.adapter_name.empty() ? nullptr : state.find(options.adapter_name);
      bool there = loaded && loaded->parts[component].adapter;
      check(options.hotswap || !there, ErrorKind::conflict, "{} already has an adapter \"{}\"", name,
            options.adapter_name);
      check(!options.hotswap || there, ErrorKind::not_found, "{} does not have an adapter \"{}\" to replace", name,
            options.adapter_name);
      report.adapter_name = options.adapter_name.empty() ? state.new_name("") : options.adapter_name;
      if (options.hotswap) state.replace_part(report.adapter_name, component, parts[component]);
      if (!options.hotswap || weight != 1) state.add_part(report.adapter_name, component, parts[component], weight);
    });
    return std::move(report);
  });
}

LoadReport LoraBaseMixin::load_lora_into_text_encoder(const StateDict& state_dict,
                                                      const std::map<std::string, double>& network_alphas,
                                                      Model& text_encoder, const LoadIntoTextEncoderOptions& options) {
  const LoadIntoOptions part{.adapter_name = options.adapter_name,
                             .low_cpu_mem_usage = options.low_cpu_mem_usage,
                             .hotswap = options.hotswap,
                             .metadata = options.metadata,
                             .partial = options.partial};
  return load_into(text_encoder, options.prefix, state_dict, network_alphas, part, options.lora_scale);
}

// ---- Setting --------------------------------------------------------------------------------------------------------

std::vector<std::string> LoraBaseMixin::set_adapters(
    std::initializer_list<std::pair<std::string, LoraScale>> adapters) {
  return public_call([&] {
    Names names;
    std::vector<LoraScale> weights;
    for (const auto& [name, weight] : adapters) {
      names.push_back(name);
      weights.push_back(weight);
    }
    return set_adapters(names, weights);
  });
}

std::vector<std::string> LoraBaseMixin::set_adapters(const OneOrMany<std::string>& adapter_names,
                                                     const AdapterWeights& adapter_weights) {
  return public_call([&] {
    auto& registry = registry_of(*this);
    const auto scales = adapter_weights.of(adapter_names.size(), "set_adapters");
    const auto weights = resolved(adapter_names, scales, registry);  // all of them are checked before any is set
    Names fused;
    registry.change([&](AdapterState& state) {
      check_known(state, registry, adapter_names);
      state.set(adapter_names, scales, weights);
      fused.clear();
      for (const auto& name : adapter_names)
        if (state.fused_as(name)) fused.push_back(name);
    });

    Names remarks, components;
    for (const auto& c : registry.components()) components.push_back(c.name);
    for (size_t i = 0; i < adapter_names.size(); ++i) {
      const auto& name = adapter_names[i];
      if (std::find(fused.begin(), fused.end(), name) != fused.end())
        remarks.push_back(fmt::format(
            "adapter \"{}\" is fused, so its new weight has no effect until unfuse_lora or the next fuse_lora", name));
      auto unknown = unknown_components(scales[i], components);
      std::sort(unknown.begin(), unknown.end());
      if (!unknown.empty())
        remarks.push_back(
            fmt::format("the weights of \"{}\" name components that this pipeline does not have: {}; it has: {}", name,
                        join(unknown, ", "), join(components, ", ")));
    }
    return remarks;
  });
}

void LoraBaseMixin::enable_lora() {
  public_call([&] { registry_of(*this).change([](AdapterState& state) { state.enabled = true; }); });
}

void LoraBaseMixin::disable_lora() {
  public_call([&] { registry_of(*this).change([](AdapterState& state) { state.enabled = false; }); });
}

// ---- Fusing ---------------------------------------------------------------------------------------------------------

namespace {

// The edit of fuse_lora().
AdapterRegistry::Edit fuse_edit(const AdapterRegistry& registry, const FuseLoraOptions& options) {
  check(std::isfinite(options.lora_scale), ErrorKind::usage, "fuse_lora: lora_scale is {}; it must be a finite number",
        options.lora_scale);
  check(!options.max_loss || (*options.max_loss >= 0 && *options.max_loss <= 1), ErrorKind::usage,
        "fuse_lora: max_loss is {}; it is a share from 0 to 1", options.max_loss.value_or(0));
  return [&registry, options, chosen = chosen_components(registry, options.components)](AdapterState& state) {
    check_known(state, registry, options.adapter_names);
    Names impossible, of;
    for (auto c : chosen) {
      const auto names = options.adapter_names.empty() ? state.components[c].active : options.adapter_names.values();
      for (const auto& name : names) {
        const auto& [adapter, weights] = state.find(name)->parts[c];
        const auto before = impossible.size();
        if (adapter) add_unfusable(*adapter, weights, registry.components()[c].name, impossible);
        if (impossible.size() > before) add_once(of, "\"" + name + "\"");
      }
      state.fuse(names, c, options.lora_scale, options.max_loss);
    }
    check(impossible.empty(), ErrorKind::unsupported,
          "fuse_lora: {} adds a bias to {} without one: {}; it can be active, but not fused", listing(of),
          counted(impossible.size(), "layer"), listing(impossible));
  };
}

FuseReport report_of(const std::vector<SiteChange>& changes, const AdapterRegistry& registry) {
  FuseReport report;
  ChangeSums all;
  for (const auto& [site, sums, stays_active] : changes) {
    report.layers.push_back({.component = registry.components()[site->owner->component].name,
                             .path = site->path,
                             .dtype = site->weight.scalar_type(),
                             .change = sums.relative(),
                             .lost = sums.loss(),
                             .not_finite = sums.not_finite,
                             .stays_active = stays_active,
                             .unchanged = !stays_active && !sums.changed});
    if (stays_active) continue;
    if (sums.not_finite == 0) all += sums;
    report.not_finite += sums.not_finite;
  }
  report.change = all.relative();
  report.lost = all.loss();
  return report;
}

}  // namespace

FuseReport LoraBaseMixin::fuse_lora(const FuseLoraOptions& options) {
  return public_call([&] {
    auto& registry = registry_of(*this);
    using Results = AdapterRegistry::Results;
    return report_of(
        registry.change(fuse_edit(registry, options), options.safe_fusing ? Results::finite : Results::any), registry);
  });
}

FuseReport LoraBaseMixin::measure_fuse(const FuseLoraOptions& options) const {
  return public_call([&] {
    const auto& registry = registry_of(*this);
    return report_of(registry.measure(fuse_edit(registry, options)), registry);
  });
}

void LoraBaseMixin::unfuse_lora(const UnfuseLoraOptions& options) {
  public_call([&] {
    auto& registry = registry_of(*this);
    auto chosen = chosen_components(registry, options.components);
    std::erase_if(chosen, [&](size_t c) {
      const bool reads_text = registry.components()[c].name.starts_with("text_encoder");
      return reads_text ? !options.unfuse_text_encoder : !options.unfuse_unet;
    });
    registry.change([&](AdapterState& state) {
      auto fused = fused_in(state);
      for (const auto& name : options.adapter_names)
        check(std::find(fused.begin(), fused.end(), name) != fused.end(), ErrorKind::not_found,
              "unfuse_lora: \"{}\" is not fused; {}", name,
              fused.empty() ? "no adapter is" : "these are: " + listing(fused));
      for (auto c : chosen) state.unfuse(options.adapter_names, c);
    });
  });
}

std::vector<std::string> LoraBaseMixin::fused_loras() const {
  return edge([&] { return fused_in(registry_of(*this).current()->state); });
}

int LoraBaseMixin::num_fused_loras() const { return int(fused_loras().size()); }

// ---- Forgetting, moving, listing ------------------------------------------------------------------------------------

void LoraBaseMixin::delete_adapters(const OneOrMany<std::string>& adapter_names) {
  public_call([&] {
    auto& registry = registry_of(*this);
    registry.change([&](AdapterState& state) {
      check_known(state, registry, adapter_names);
      state.remove(adapter_names);
    });
  });
}

void LoraBaseMixin::unload_lora_weights() {
  public_call([&] { registry_of(*this).change([](AdapterState& state) { state.unload(); }); });
}

void LoraBaseMixin::set_lora_device(const OneOrMany<std::string>& adapter_names, Device device) {
  public_call([&] {
    auto& registry = registry_of(*this);
    registry.change([&](AdapterState& state) {
      check_known(state, registry, adapter_names);
      for (const auto& name : adapter_names) state.move(name, device);
    });
  });
}

std::vector<std::string> LoraBaseMixin::get_active_adapters() const {
  return edge([&] { return active_in(registry_of(*this).current()->state); });
}

std::map<std::string, std::vector<std::string>> LoraBaseMixin::get_list_adapters() const {
  return edge([&] { return list_of(registry_of(*this).current()->state, registry_of(*this)); });
}

uint64_t LoraBaseMixin::lora_snapshot() const {
  return edge([&] { return registry_of(*this).current()->number; });
}

}  // namespace lora
