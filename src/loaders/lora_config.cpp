#include "loaders/lora_config.h"

#include <algorithm>
#include <cmath>

#include "kinds/kinds.h"
#include "loaders/peft_pattern.h"

namespace lora {

namespace {

constexpr PatternSource kMetadata{ErrorKind::bad_file, "lora_adapter_metadata"};

}  // namespace

double LoraConfig::alpha(const std::string& path) const {
  return by_pattern(alpha_pattern, path, lora_alpha, kMetadata);
}

double LoraConfig::rank(const std::string& path) const { return by_pattern(rank_pattern, path, r, kMetadata); }

bool LoraConfig::is_feedforward(const std::string& path) const {
  if (!feedforward_pattern.empty()) return matches_expression(path, feedforward_pattern, kMetadata);
  return std::any_of(feedforward_modules.begin(), feedforward_modules.end(),
                     [&](auto& name) { return path.ends_with(name); });
}

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
  layer.alpha = alpha(layer.path);
  auto own_rank = double(kind->rank(layer.tensors));
  if (own_rank > 0 && !use_rslora) return;  // the scale is alpha / rank
  auto divisor = own_rank > 0 ? std::sqrt(own_rank) : rank(layer.path);
  if (divisor > 0 && divisor != *layer.alpha) layer.scale = *layer.alpha / divisor;
}

}  // namespace lora
