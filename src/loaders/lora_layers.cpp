// The tensors of loaded adapters: to save, to mix, to train.
#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "core/check.h"
#include "core/text.h"
#include "dialects/canonical.h"
#include "io/public_call.h"
#include "kinds/dora.h"
#include "loaders/peft_pattern.h"
#include "loaders/registry_of.h"
#include "loaders/scales.h"
#include "nn/random.h"

namespace lora {

namespace {

// An adapter's deltas in one component. Throws Error{usage, not_found} for unknown names.
std::shared_ptr<const Adapter> part_of(const LoraBaseMixin& mixin, const std::string& component,
                                       const std::string& adapter_name) {
  const auto& registry = registry_of(mixin);
  return registry.current()->state.part(adapter_name, registry.index_of(component));
}

constexpr PatternSource kCreateAdapter{ErrorKind::usage, "create_adapter"};

bool is_target(const std::string& path, const CreateAdapterOptions& options) {
  if (!options.target_modules_regex.empty())
    return matches_expression(path, options.target_modules_regex, kCreateAdapter);
  return std::any_of(options.target_modules.begin(), options.target_modules.end(),
                     [&](auto& name) { return path == name || path.ends_with("." + name); });
}

// torch's kaiming_uniform_(a = √5): uniform within 1/√fan_in.
Tensor kaiming(at::IntArrayRef shape, at::Generator generator) {
  auto t = at::empty(shape, at::kFloat);
  auto bound = 1 / std::sqrt(double(t.numel() / shape[0]));
  return t.uniform_(-bound, bound, generator);
}

}  // namespace

namespace {

// An adapter for the layers of one component that the options name.
Adapter fresh_adapter(const AdapterRegistry& registry, const AdapterRegistry::Component& component,
                      const CreateAdapterOptions& options) {
  const SnapshotScope unwritten(registry);
  auto generator = make_generator(options.seed);
  Adapter adapter;
  for (const auto& site : component.parts->sites) {
    if (site->kind == SiteKind::norm || !is_target(site->path, options)) continue;
    auto r = by_pattern(options.rank_pattern, site->path, options.r, kCreateAdapter);
    auto alpha = by_pattern(options.alpha_pattern, site->path, options.lora_alpha, kCreateAdapter);
    check(r > 0, ErrorKind::usage, "create_adapter: r is {} for {}; it must be at least 1", r, site->path);
    check(site->geometry.groups == 1, ErrorKind::unsupported,
          "create_adapter: {}: no adapter can be made for a convolution in {} groups", site->path,
          site->geometry.groups);
    auto w = site->weight.sizes();
    bool conv = site->kind == SiteKind::conv2d, embeds = site->kind == SiteKind::embedding;
    auto A_shape = conv ? std::vector<int64_t>{r, w[1], w[2], w[3]} : std::vector<int64_t>{r, embeds ? w[0] : w[1]};
    auto out = embeds ? w[1] : w[0];
    auto B_shape = conv ? std::vector<int64_t>{out, r, 1, 1} : std::vector<int64_t>{out, r};
    using Init = CreateAdapterOptions::Init;
    LoraFactors factors{.alpha = alpha, .scale = alpha / (options.use_rslora ? std::sqrt(double(r)) : double(r))};
    factors.A = options.init_lora_weights == Init::gaussian
                    ? at::empty(A_shape, at::kFloat).normal_(0, 1.0 / double(r), generator)
                    : kaiming(A_shape, generator);
    factors.B = options.init_lora_weights == Init::random ? kaiming(B_shape, generator) : at::zeros(B_shape);
    if (options.lora_bias) factors.bias = at::zeros({out});
    factors = factors.to(site->weight.device(), site->weight.scalar_type());
    for (auto* t : {&factors.A, &factors.B, &factors.bias})
      if (t->defined()) t->requires_grad_(true);
    if (!options.use_dora) {
      adapter.entries.push_back({site.get(), std::make_shared<LoraDelta>(std::move(factors))});
      continue;
    }
    check(!embeds && !options.lora_bias, ErrorKind::unsupported,
          "create_adapter: {}: DoRA is for linear layers and convolutions, without lora_bias", site->path);
    // The magnitude starts as the base's own norms, or what a random start makes of them.
    auto base = registry.base(*site);
    auto started = with_effect({.A = factors.A, .B = factors.B, .scale = factors.scale}, site->kind, base);
    adapter.entries.push_back({site.get(), std::make_shared<PeftDoraDelta>(
                                               std::move(factors), started.flatten(1).norm(2, 1), base, site->path)});
  }
  check(!adapter.entries.empty(), ErrorKind::usage, "create_adapter: no layer of {} is called {}", component.name,
        options.target_modules_regex.empty() ? listing(options.target_modules) : options.target_modules_regex);
  return adapter;
}

}  // namespace

namespace {

LoraLayer layer_of(const Delta& delta) {
  auto beyond = delta.beyond_tensors();
  check(beyond.empty(), ErrorKind::unsupported, "{} whose tensors do not say {}; keep the file that it came from",
        delta.algorithm(), beyond);
  LoraLayer layer{.tensors = delta.tensors()};
  for (auto& [suffix, tensor] : layer.tensors) tensor = tensor.detach();
  // A kind without a rank has its strength said outright, or an alpha of another meaning (OFT's).
  auto r = double(delta.rank());
  if (r > 0 && delta.scale() != 1) layer.alpha = delta.scale() * r;
  if (r == 0 && delta.scale() != 1) layer.scale = delta.scale();
  if (r == 0 && delta.scale() == 1 && delta.alpha() != 0) layer.alpha = delta.alpha();
  return layer;
}

}  // namespace

std::map<std::string, LoraLayersByComponent> layers_beside_weights(const AdapterRegistry& registry,
                                                                   const AdapterState& state) {
  std::map<std::string, LoraLayersByComponent> all;
  for (size_t c = 0; c < state.components.size(); ++c)
    for (const auto& fused : state.components[c].fused)
      for (const auto& [site, delta] : fused.adapter->entries)
        if (fused.as_factors.at(site->index) != 0)
          add_tensors(all[fused.name][registry.components()[c].name], site->path, layer_of(*delta));
  return all;
}

StateDict LoraBaseMixin::get_lora_layers(const std::string& component_name, const std::string& adapter_name) const {
  return public_call([&] {
    StateDict layers;
    for (const auto& [site, delta] : part_of(*this, component_name, adapter_name)->entries)
      add_tensors(layers, site->path, layer_of(*delta));
    return layers;
  });
}

StateDict LoraBaseMixin::get_lora_layers(const std::string& component_name, const OneOrMany<std::string>& adapter_names,
                                         const AdapterWeights& adapter_weights) const {
  return public_call([&] {
    const auto scales = adapter_weights.of(adapter_names.size(), "get_lora_layers");
    const auto& registry = registry_of(*this);
    const auto component = registry.index_of(component_name);
    const auto& parts = *registry.components()[component].parts;
    const SnapshotScope scope(registry);
    const auto& state = AdapterRegistry::of(scope).state;
    check_known(state, registry, adapter_names);
    std::map<size_t, std::pair<std::vector<Tensor>, std::vector<Tensor>>> factors;  // by site
    for (size_t i = 0; i < adapter_names.size(); ++i) {
      const auto weights = resolve(scales[i], component_name, parts, adapter_names[i]);
      const auto& adapter = state.find(adapter_names[i])->parts[component].adapter;
      if (!adapter) continue;
      for (const auto& [site, delta] : adapter->entries) {
        auto effect = delta->effect(weights.at(site->index), registry.base(*site));
        check(effect.A.defined() && !effect.weight.defined() && !effect.gain.defined() &&
                  !effect.input_gain.defined() && !effect.bias.defined(),
              ErrorKind::unsupported,
              "get_lora_layers: {}.{} of \"{}\" is of the kind {}, which no plain factors can say", component_name,
              site->path, adapter_names[i], delta->algorithm());
        auto& [A, B] = factors[site->index];
        A.push_back(effect.A.detach().to(at::kFloat));
        B.push_back(effect.B.detach().to(at::kFloat) * effect.scale);
      }
    }
    StateDict layers;
    for (const auto& [index, pair] : factors) {
      const auto& path = parts.sites[index]->path;
      layers.set(fmt::format("{}.{}", path, kDown), at::cat(pair.first, 0));
      layers.set(fmt::format("{}.{}", path, kUp), at::cat(pair.second, 1));
    }
    return layers;
  });
}

std::string LoraBaseMixin::create_adapter(const std::string& component_name, const CreateAdapterOptions& options) {
  return public_call([&] {
    auto& registry = registry_of(*this);
    const auto component = registry.index_of(component_name);
    auto adapter = std::make_shared<const Adapter>(fresh_adapter(registry, registry.components()[component], options));
    std::string name;
    registry.change([&](AdapterState& state) {
      name = state.new_name(options.adapter_name);
      state.add_part(name, component, adapter);
    });
    return name;
  });
}

StateDict LoraBaseMixin::trainable_parameters(const std::string& component_name, const std::string& adapter_name) {
  return public_call([&] {
    StateDict parameters;
    for (const auto& [site, delta] : part_of(*this, component_name, adapter_name)->entries)
      for (const auto& [suffix, tensor] : delta->tensors())
        if (tensor.requires_grad()) parameters.set(site->path + "." + suffix, tensor);
    return parameters;
  });
}

}  // namespace lora
