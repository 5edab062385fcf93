#pragma once
// A LoRA's layers as tensors under canonical names, strengths among them, and the reverse.
#include "dialects/canonical.h"
#include "kinds/kinds.h"

namespace lora {

// `<component>.<path>.<suffix>` as layers.
inline std::vector<LoraLayer> layers_named(const StateDict& tensors) {
  std::vector<LoadReport::Unmatched> unmatched;
  auto layers = layers_of(tensors, "", unmatched);
  for (auto& layer : layers) {
    auto dot = layer.path.find('.');
    layer.component = layer.path.substr(0, dot);
    layer.path = layer.path.substr(dot + 1);
  }
  return layers;
}

inline StateDict tensors_of(const std::vector<LoraLayer>& layers) {
  StateDict tensors;
  for (const auto& layer : layers) add_tensors(tensors, layer.name(), layer);
  return tensors;
}
inline StateDict tensors_of(const LoraFile& file) { return tensors_of(file.layers); }

inline std::vector<const LoraLayer*> pointers_to(const std::vector<LoraLayer>& layers) {
  std::vector<const LoraLayer*> all;
  for (const auto& layer : layers) all.push_back(&layer);
  return all;
}

// The delta that a layer with these tensors is at a site. A strength is an alpha and a scale.
inline std::shared_ptr<const Delta> delta_of(const Site& site, const StateDict& tensors,
                                             std::optional<Strength> strength = {},
                                             std::map<std::string, double> settings = {}, const Tensor& base_bias = {},
                                             const std::string& label = "test") {
  LoraLayer layer{.component = "unet", .path = site.path};
  for (const auto& [suffix, tensor] : tensors) layer.tensors.emplace(suffix, tensor);
  if (strength) layer.alpha = strength->alpha;
  if (strength) layer.scale = strength->scale;
  layer.settings = std::move(settings);
  return make_delta(layer, site,
                    {.base = [](const Site& s) { return s.weight; },
                     .base_bias = [&](const Site&) { return base_bias; },
                     .label = label});
}

// Prepares `<path>.<suffix>` tensors of one component.
template <class Options>
auto prepare_tensors(const Parts& parts, const StateDict& tensors, const Options& options) {
  std::vector<LoadReport::Unmatched> unmatched;
  auto layers = layers_of(tensors, options.component, unmatched);
  return prepare(parts, pointers_to(layers), options);
}

}  // namespace lora
