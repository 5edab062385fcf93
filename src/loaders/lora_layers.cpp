// The tensors of loaded adapters: to save, to mix, to train.
#include <ATen/ATen.h>
#include <re2/re2.h>

#include <cmath>
#include <limits>

#include "adapters/adapters.h"
#include "core/check.h"
#include "core/text.h"
#include "loaders/scales.h"
#include "lora/loaders.h"
#include "nn/deltas/dora.h"
#include "nn/random.h"

namespace lora {

namespace {

Adapters& adapters(const Model* model) { return Adapters::of(*model->parts()); }

template <class Value>
Value by_pattern(const std::vector<std::pair<std::string, Value>>& patterns, const std::string& path, Value otherwise) {
  for (const auto& [pattern, value] : patterns) {
    re2::RE2 expression("(.*\\.)?(" + pattern + ")", re2::RE2::Quiet);
    check(expression.ok(), ErrorKind::usage, "create_adapter: \"{}\" is no regular expression: {}", pattern,
          expression.error());
    if (re2::RE2::FullMatch(path, expression)) return value;
  }
  return otherwise;
}

bool is_target(const std::string& path, const CreateAdapterOptions& options) {
  if (!options.target_modules_regex.empty()) {
    re2::RE2 expression(options.target_modules_regex, re2::RE2::Quiet);
    check(expression.ok(), ErrorKind::usage, "create_adapter: target_modules_regex is no regular expression: {}",
          expression.error());
    return re2::RE2::FullMatch(path, expression);
  }
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

StateDict LoraBaseMixin::get_lora_layers(const std::string& component_name, const std::string& adapter_name) const {
  StateDict layers;
  for (const auto& [site, delta] : adapters(component(component_name).model).adapter(adapter_name)->entries) {
    for (const auto& [suffix, tensor] : delta->tensors()) layers.set(site->path + "." + suffix, tensor.detach());
    // A kind without a rank has its strength said outright, or an alpha of another meaning (OFT's).
    auto r = double(delta->rank());
    if (r > 0 && delta->scale() != 1) layers.set(site->path + ".alpha", at::scalar_tensor(delta->scale() * r));
    if (r == 0 && delta->scale() != 1) layers.set(site->path + ".scale", at::scalar_tensor(delta->scale()));
    if (r == 0 && delta->scale() == 1 && delta->alpha() != 0)
      layers.set(site->path + ".alpha", at::scalar_tensor(delta->alpha()));
  }
  return layers;
}

StateDict LoraBaseMixin::get_lora_layers(const std::string& component_name,
                                         const std::vector<std::string>& adapter_names,
                                         const std::vector<LoraScale>& adapter_weights) const {
  check(adapter_names.size() == adapter_weights.size(), ErrorKind::usage,
        "get_lora_layers: {} adapters, but {} weights", adapter_names.size(), adapter_weights.size());
  check_known(adapter_names);
  auto target = component(component_name);
  auto weights = weights_in(target, adapter_weights);
  auto& registry = adapters(target.model);
  std::map<size_t, std::pair<std::vector<Tensor>, std::vector<Tensor>>> factors;  // by site
  for (size_t i = 0; i < adapter_names.size(); ++i) {
    if (!registry.contains(adapter_names[i])) continue;
    for (const auto& [site, delta] : registry.adapter(adapter_names[i])->entries) {
      auto effect = delta->effect(weights[i].at(site->index), registry.base(*site));
      check(effect.A.defined() && !effect.weight.defined() && !effect.gain.defined() && !effect.input_gain.defined() &&
                !effect.bias.defined(),
            ErrorKind::unsupported,
            "get_lora_layers: {}.{} of \"{}\" is of the kind {}, which no plain factors can say", component_name,
            site->path, adapter_names[i], delta->algorithm());
      auto& [A, B] = factors[site->index];
      A.push_back(effect.A.to(at::kFloat));
      B.push_back(effect.B.to(at::kFloat) * effect.scale);
    }
  }
  StateDict layers;
  for (const auto& [index, pair] : factors) {
    const auto& path = target.model->parts()->sites[index]->path;
    layers.set(path + ".lora_A.weight", at::cat(pair.first, 0));
    layers.set(path + ".lora_B.weight", at::cat(pair.second, 1));
  }
  return layers;
}

std::string LoraBaseMixin::create_adapter(const std::string& component_name, const CreateAdapterOptions& options) {
  auto target = component(component_name);
  auto& registry = adapters(target.model);
  auto generator = make_generator(options.seed);
  Adapter adapter;
  for (const auto& site : target.model->parts()->sites) {
    if (site->kind == SiteKind::norm || !is_target(site->path, options)) continue;
    auto r = by_pattern(options.rank_pattern, site->path, options.r);
    auto alpha = by_pattern(options.alpha_pattern, site->path, options.lora_alpha);
    check(r > 0, ErrorKind::usage, "create_adapter: r is {} for {}; it must be at least 1", r, site->path);
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
    auto V = base.to(at::kFloat).flatten(1) + factors.scale * at::mm(factors.B.detach().to(at::kFloat).flatten(1),
                                                                     factors.A.detach().to(at::kFloat).flatten(1));
    adapter.entries.push_back(
        {site.get(), std::make_shared<PeftDoraDelta>(std::move(factors), V.norm(2, 1), base, site->path)});
  }
  check(!adapter.entries.empty(), ErrorKind::usage, "create_adapter: no layer of {} is called {}", component_name,
        options.target_modules_regex.empty() ? listing(options.target_modules) : options.target_modules_regex);
  adapter.name = name_for(options.adapter_name);
  auto name = adapter.name;
  registry.add(std::move(adapter));
  return name;
}

StateDict LoraBaseMixin::trainable_parameters(const std::string& component_name,
                                              const std::string& adapter_name) const {
  StateDict parameters;
  for (const auto& [site, delta] : adapters(component(component_name).model).adapter(adapter_name)->entries)
    for (const auto& [suffix, tensor] : delta->tensors())
      if (tensor.requires_grad()) parameters.set(site->path + "." + suffix, tensor);
  return parameters;
}

}  // namespace lora
