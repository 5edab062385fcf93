#include "dialects/left_out.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"
#include "kinds/kinds.h"

namespace lora {

namespace {

// Parts of the names of adapters' tensors, between dots and underscores: "to_q.hada_w1_a". Names with "lora" have many
// forms: "lora_A", "to_q_lora", "qkv_lora1".
constexpr std::string_view kWords[] = {"locon", "lycoris", "loha", "hada", "lokr", "glora", "ia3",
                                       "oft",   "boft",    "dora", "vera", "diff", "krona"};
// PEFT's trained rows of an embedding: "token_adapter.trainable_tokens_delta".
constexpr std::string_view kTrainedTokens = "trainable_tokens";

bool has_adapters_name(std::string_view key) {
  if (key.find(kTrainedTokens) != key.npos) return true;
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

  // The layer of the nearest module around the key. nullptr if there is none, or if the module has several. A module is
  // a key without its last parts, as many as the longest name of a tensor has: "lora_linear_layer.up.weight".
  const LoraLayer* layer_of(std::string_view key) const {
    constexpr int kParts = 3;
    auto module = key;
    for (int i = 0; i < kParts; ++i) {
      auto dot = module.rfind('.');
      if (dot == module.npos) return nullptr;
      module = module.substr(0, dot);
      auto inside = std::string(module) + ".";
      auto first = std::lower_bound(keys_.begin(), keys_.end(), std::pair<std::string, const LoraLayer*>(inside, {}));
      if (first == keys_.end() || !first->first.starts_with(inside)) continue;
      for (auto it = first; it != keys_.end() && it->first.starts_with(inside); ++it) {
        auto rest = std::string_view(it->first).substr(inside.size());
        if (it->second != first->second || std::count(rest.begin(), rest.end(), '.') >= kParts) return nullptr;
      }
      return first->second;
    }
    return nullptr;
  }

 private:
  std::vector<std::pair<std::string, const LoraLayer*>> keys_;
};

// What trainers store beside a layer and no program reads, by the last part of its key.
constexpr std::string_view kRanks[] = {"rank", "r", "dim", "lora_rank", "lora_dim", "network_dim"};
constexpr std::string_view kFactors[] = {"multiplier", "scalar"};
constexpr std::string_view kNorms[] = {"initial_norm"};

template <size_t N>
bool is_one_of(std::string_view name, const std::string_view (&names)[N]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// Why a tensor beside a layer changes nothing; "" for one that may change something. Where only its size was read, a
// single number is taken for what its name says.
std::string why_without_effect(std::string_view key, const Tensor& tensor, const LoraLayer& layer) {
  if (!tensor.defined() || tensor.is_complex() || tensor.numel() == 0) return "";
  auto name = key.substr(key.rfind('.') + 1);
  const bool was_read = !tensor.is_meta();
  if (name == "bias")
    return was_read && tensor.count_nonzero().item<int64_t>() == 0 ? "a bias of zeros, which changes nothing" : "";
  if (tensor.numel() != 1) return "";
  auto is = [&](double value) { return !was_read || tensor.to(at::kDouble).item<double>() == value; };
  if (is_one_of(name, kRanks) && is(double(rank_of(layer.tensors)))) return "the rank, which the factors say too";
  if (is_one_of(name, kFactors) && is(1)) return "a factor of 1, which changes nothing";
  if (is_one_of(name, kNorms)) return "a number that only the training needed";
  return "";
}

}  // namespace

std::vector<LoadReport::Unmatched> parts_of_adapters(std::vector<LoadReport::Unmatched>& not_understood,
                                                     const StateDict& file, const std::vector<LoraLayer>& layers) {
  const Modules modules(layers);
  std::vector<LoadReport::Unmatched> parts;
  for (auto& [key, reason] : not_understood) {
    auto* layer = modules.layer_of(key);
    auto* tensor = file.find(key);
    auto without_effect = layer && tensor ? why_without_effect(key, *tensor, *layer) : "";
    if (!without_effect.empty())
      reason = without_effect;
    else if (layer || has_adapters_name(key))
      parts.push_back({key, reason});
  }
  return parts;
}

}  // namespace lora
