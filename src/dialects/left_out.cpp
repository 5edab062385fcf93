#include "dialects/left_out.h"

#include <algorithm>

#include "core/text.h"

namespace lora {

namespace {

// Parts of the names of adapters' tensors, between dots and underscores: "to_q.hada_w1_a". Names with "lora" have many
// forms: "lora_A", "to_q_lora", "qkv_lora1".
constexpr std::string_view kWords[] = {"locon", "lycoris", "loha", "hada", "lokr", "glora", "ia3",
                                       "oft",   "boft",    "dora", "vera", "diff", "krona", "trainable"};

bool has_adapters_name(std::string_view key) {
  std::string spaced(key);
  std::replace(spaced.begin(), spaced.end(), '_', '.');
  auto parts = split(spaced, '.');
  return std::any_of(parts.begin(), parts.end(), [](const std::string& part) {
    return part.starts_with("lora") || std::find(std::begin(kWords), std::end(kWords), part) != std::end(kWords);
  });
}

// The keys that were understood, in alphabetical order, each with its layer.
class Modules {
 public:
  explicit Modules(const std::vector<LoraLayer>& layers) {
    for (const auto& layer : layers) {
      if (layer.component == "controlnet") continue;  // which no pipeline has
      for (const auto& [suffix, key] : layer.keys) keys_.emplace_back(key, &layer);
    }
    std::sort(keys_.begin(), keys_.end());
  }

  // Whether the nearest module around the key has tensors of one layer and no others. A module is a key without its
  // last parts, as many as the longest name of a tensor has: "lora_linear_layer.up.weight".
  bool has_layer_of(std::string_view key) const {
    constexpr int kParts = 3;
    auto module = key;
    for (int i = 0; i < kParts; ++i) {
      auto dot = module.rfind('.');
      if (dot == module.npos) return false;
      module = module.substr(0, dot);
      auto inside = std::string(module) + ".";
      auto first = std::lower_bound(keys_.begin(), keys_.end(), std::pair<std::string, const LoraLayer*>(inside, {}));
      if (first == keys_.end() || !first->first.starts_with(inside)) continue;
      for (auto it = first; it != keys_.end() && it->first.starts_with(inside); ++it) {
        auto rest = std::string_view(it->first).substr(inside.size());
        if (it->second != first->second || std::count(rest.begin(), rest.end(), '.') >= kParts) return false;
      }
      return true;
    }
    return false;
  }

 private:
  std::vector<std::pair<std::string, const LoraLayer*>> keys_;
};

}  // namespace

std::vector<LoadReport::Unmatched> parts_of_adapters(const std::vector<LoadReport::Unmatched>& not_understood,
                                                     const std::vector<LoraLayer>& layers) {
  const Modules modules(layers);
  std::vector<LoadReport::Unmatched> parts;
  for (const auto& each : not_understood)
    if (has_adapters_name(each.key) || modules.has_layer_of(each.key)) parts.push_back(each);
  return parts;
}

}  // namespace lora
