#include "dialects/several_adapters.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <set>

#include "kinds/kinds.h"
#include "kinds/lora.h"

namespace lora {

namespace {

// The name that both keys of a pair of factors have: "to_q*default.weight" of "to_q.lora_A.default.weight". "" for
// keys without halves.
std::string pair_name(std::string key) {
  static constexpr std::string_view kHalves[] = {".lora_down.", ".lora_up.", ".lora_A.",          ".lora_B.",
                                                 ".down.",      ".up.",      ".lora_embedding_A", ".lora_embedding_B"};
  for (auto half : kHalves)
    if (auto at = key.rfind(half); at != key.npos) return key.replace(at, half.size(), "*");
  return "";
}

}  // namespace

bool are_equal(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined() || a.sizes() != b.sizes()) return false;
  return (a.is_meta() && b.is_meta()) || at::equal(a.to(at::kDouble), b.to(at::kDouble));
}

void add_repeats_without_strength(const std::vector<LoraLayer>& layers, const Repeats& repeats,
                                  std::vector<LoadReport::Unmatched>& not_understood) {
  for (const auto& [index, keys] : repeats) {
    const auto& layer = layers[index];
    auto first = layer.keys.find(kDown), again = keys.find(kDown);
    if (first == layer.keys.end() || again == keys.end()) continue;
    for (auto [name, strength] : {std::pair{kAlpha, layer.alpha}, {kScale, layer.scale}})
      if (strength && !keys.contains(name))
        not_understood.push_back({again->second, fmt::format(kDiffers, first->second, "layer")});
  }
}

std::vector<LoadReport::Unmatched> take_strange_halves(std::vector<LoraLayer>& layers) {
  std::vector<LoadReport::Unmatched> taken;
  for (auto& layer : layers) {
    auto down = layer.keys.find(kDown), up = layer.keys.find(kUp);
    if (down == layer.keys.end() || up == layer.keys.end()) continue;
    auto first = pair_name(down->second), second = pair_name(up->second);
    if (first == second || first.empty() || second.empty()) continue;
    taken.push_back({up->second, fmt::format("it is not the other half of {}", down->second)});
    layer.tensors.erase(std::string(kUp));
    layer.keys.erase(up);
  }
  return taken;
}

std::vector<std::string> adapter_names(const StateDict& file) {
  constexpr std::string_view kFactor = ".lora_A.", kEnd = ".weight";
  std::set<std::string> names;
  for (const auto& [key, tensor] : file) {
    auto at = key.rfind(kFactor);
    if (at == key.npos || !key.ends_with(kEnd)) continue;
    auto name = key.substr(at + kFactor.size());
    if (name.size() > kEnd.size()) names.insert(name.substr(0, name.size() - kEnd.size()));
  }
  return {names.begin(), names.end()};
}

}  // namespace lora
