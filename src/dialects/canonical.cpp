#include "dialects/canonical.h"

#include <ATen/ATen.h>

#include "adapters/finite.h"
#include "core/check.h"
#include "core/text.h"
#include "kinds/kinds.h"

namespace lora {

namespace {

// Whether a key is named as the numbers that quantized tensors are multiplied with, in the formats of bitsandbytes,
// GPTQ, torchao and ComfyUI.
bool is_scale_of_quantized(std::string_view key) {
  auto has = [&](std::string_view part) { return key.find(part) != key.npos; };
  return has("scale") || has("absmax") || has("quant") || has("zero_point") || key.ends_with(".SCB");
}

}  // namespace

double read_strength(const std::string& key, const Tensor& t) {
  check(t.defined() && t.numel() == 1, ErrorKind::bad_shape, "{} has shape {}; one number is wanted", key,
        t.defined() ? c10::str(t.sizes()) : "none");
  const char* lack = lacks_numbers(t);
  check(!lack, ErrorKind::bad_file, "{} is {}; a number is wanted", key, lack ? lack : "");
  check(t.is_floating_point() || c10::isIntegralType(t.scalar_type(), /*includeBool=*/false), ErrorKind::bad_file,
        "{} is of the type {}; a number is wanted", key, to_string(t.scalar_type()));
  return number(t);
}

void check_floating_point(const std::vector<LoraLayer>& layers, const std::vector<LoadReport::Unmatched>& unmatched) {
  std::vector<std::string> others, scales;
  for (const auto& layer : layers) {
    auto key_of = [&](std::string_view suffix) {
      auto key = layer.keys.find(suffix);
      return key == layer.keys.end() ? fmt::format("{}.{}", layer.name(), suffix) : key->second;
    };
    for (const auto& [suffix, tensor] : layer.tensors) {
      auto* row = name_row(suffix);
      if (!tensor.defined() || tensor.is_floating_point() || (row && !row->is_factor)) continue;
      others.push_back(fmt::format("{} ({})", key_of(suffix), to_string(tensor.scalar_type())));
    }
    if (layer.scale) scales.push_back(key_of(kScale));
  }
  if (others.empty()) return;
  for (const auto& [key, reason] : unmatched)
    if (is_scale_of_quantized(key)) scales.push_back(key);
  fail(ErrorKind::unsupported,
       "{} tensors do not hold floating-point numbers: {}. The file looks quantized{}; use the file that it was made "
       "from",
       others.size(), listing(others, 3),
       scales.empty() ? "" : fmt::format(", with these scales: {}", listing(scales, 3)));
}

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
    (suffix == kAlpha ? layer.alpha : layer.scale) = read_strength(key, tensor);
  }
  for (auto& layer : layers) layer.kind = kind_name(layer.tensors);
  return layers;
}

void add_tensors(StateDict& to, const std::string& prefix, const LoraLayer& layer) {
  for (const auto& [suffix, tensor] : layer.tensors) to.set(prefix + "." + suffix, tensor);
  for (auto [name, strength] : {std::pair{kAlpha, layer.alpha}, {kScale, layer.scale}})
    if (strength) to.set(fmt::format("{}.{}", prefix, name), at::scalar_tensor(*strength, at::kDouble).to(at::kFloat));
}

}  // namespace lora
