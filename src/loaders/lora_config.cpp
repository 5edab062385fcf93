#include "loaders/lora_config.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "kinds/kinds.h"
#include "loaders/peft_pattern.h"

namespace lora {

double LoraConfig::alpha(const std::string& path, const std::string& other) const {
  return by_pattern(alpha_pattern, path, by_pattern(alpha_pattern, other, lora_alpha, source()), source());
}

double LoraConfig::rank(const std::string& path, const std::string& other) const {
  constexpr double kPeftsDefault = 8;
  return stated_rank(path, other).value_or(kPeftsDefault);
}

std::optional<double> LoraConfig::stated_rank(const std::string& path, const std::string& other) const {
  std::vector<std::pair<std::string, std::optional<double>>> patterns(rank_pattern.begin(), rank_pattern.end());
  return by_pattern(patterns, path, by_pattern(patterns, other, r, source()), source());
}

bool LoraConfig::is_feedforward(const std::string& path) const {
  if (!feedforward_pattern.empty()) return matches_expression(path, feedforward_pattern, source());
  return std::any_of(feedforward_modules.begin(), feedforward_modules.end(),
                     [&](auto& module) { return path.ends_with(module); });
}

namespace {

// The file's key of the layer's first tensor. It says the layer's name in the model that was trained, which may be
// native.
const std::string& key_of(const LoraLayer& layer) {
  auto key = layer.tensors.empty() ? layer.keys.end() : layer.keys.find(layer.tensors.begin()->first);
  return key == layer.keys.end() ? layer.path : key->second;
}

std::string name_in_file(const LoraLayer& layer) {
  constexpr std::string_view kPeft = "base_model.model.";
  std::string_view name = key_of(layer);
  if (name.starts_with(kPeft)) name.remove_prefix(kPeft.size());
  take_peft_end(name);
  return std::string(name);
}

}  // namespace

void LoraConfig::apply(LoraLayer& layer) const {
  if (peft_type == "IA3" && is_feedforward(layer.path)) layer.settings["feedforward"] = 1;
  if (peft_type == "OFT") {
    const LoraConfig standard;
    if (use_cayley_neumann != standard.use_cayley_neumann) layer.settings["use_cayley_neumann"] = use_cayley_neumann;
    if (num_cayley_neumann_terms != standard.num_cayley_neumann_terms)
      layer.settings["num_cayley_neumann_terms"] = double(num_cayley_neumann_terms);
    if (coft_eps > 0) layer.settings["eps"] = coft_eps;
  }
  auto* kind = kind_of(layer.tensors);
  if (!kind || !kind->has_strength() || layer.scale) return;
  auto own_rank = double(kind->rank(layer.tensors));
  auto name_there = name_in_file(layer);
  if (auto stated = stated_rank(layer.path, name_there)) {
    check(own_rank == 0 || *stated == own_rank, ErrorKind::bad_file,
          "{} says r = {} for {}, but the tensors of this layer have rank {}; correct one of them ({})", name, *stated,
          layer.path, own_rank, key_of(layer));
    check(*stated >= 1 && *stated == std::floor(*stated), ErrorKind::bad_file,
          "{} says r = {} for {}; a whole number of at least 1 is wanted ({})", name, *stated, layer.path,
          key_of(layer));
  }
  layer.alpha = alpha(layer.path, name_there);
  if (own_rank > 0 && !use_rslora) return;  // the scale is alpha / rank
  auto divisor = own_rank > 0 ? std::sqrt(own_rank) : rank(layer.path, name_there);
  if (divisor > 0 && (own_rank > 0 || divisor != *layer.alpha)) layer.scale = *layer.alpha / divisor;
}

}  // namespace lora
