#include "dialects/canonical.h"

#include <ATen/ATen.h>

#include <cmath>

#include "core/check.h"
#include "kinds/kinds.h"

namespace lora {

std::vector<LoraLayer> layers_of(const StateDict& tensors, const std::string& component,
                                 std::vector<LoadReport::Unmatched>& unmatched) {
  std::vector<LoraLayer> layers;
  std::unordered_map<std::string_view, size_t> where;
  for (const auto& [key, tensor] : tensors) {
    auto [path, suffix] = split_key(key);
    if (suffix.empty()) {
      unmatched.push_back({key, "this kind of tensor is not one that the adapters here have"});
      continue;
    }
    auto [it, fresh] = where.emplace(path, layers.size());
    if (fresh) layers.push_back({.component = component, .path = std::string(path)});
    auto& layer = layers[it->second];
    layer.keys.emplace(suffix, key);
    if (suffix != kAlpha && suffix != kScale) {
      layer.tensors.emplace(suffix, tensor);
      continue;
    }
    check(tensor.defined() && tensor.numel() == 1, ErrorKind::bad_shape, "{} has shape {}; one number is wanted", key,
          tensor.defined() ? c10::str(tensor.sizes()) : "none");
    (suffix == kAlpha ? layer.alpha : layer.scale) = number(tensor);
  }
  for (auto& layer : layers) layer.kind = kind_name(layer.tensors);
  return layers;
}

void add_tensors(StateDict& to, const std::string& prefix, const LoraLayer& layer) {
  for (const auto& [suffix, tensor] : layer.tensors) to.set(prefix + "." + suffix, tensor);
  if (layer.alpha) to.set(fmt::format("{}.{}", prefix, kAlpha), at::scalar_tensor(*layer.alpha));
  if (layer.scale) to.set(fmt::format("{}.{}", prefix, kScale), at::scalar_tensor(*layer.scale));
}

}  // namespace lora
