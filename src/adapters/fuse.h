#pragma once
// Deltas into weights, and the weights back. A weight is always rebuilt from what the file holds and the list of what
// is fused, so that it is a function of these two alone and undoing is exact in every dtype.
#include <unordered_map>
#include <unordered_set>

#include "nn/delta.h"

namespace lora {

// One delta to be fused and its strength (the adapter's weight × lora_scale).
struct Ingredient {
  const Delta* delta;
  double strength;
  bool operator==(const Ingredient&) const = default;
};

// What is wanted at one site: nothing in the list means the base weight.
struct Rebuild {
  Site* site;
  std::vector<Ingredient> ingredients;
  bool is_base = false;  // nothing is fused there now: the weight need not be restored first
};

// What rebuilding has to remember of a model's weights.
struct BaseWeights {
  // The base weight and bias of those that came from no file, from before they are first written until they are
  // restored.
  std::unordered_map<const Site*, std::pair<Tensor, Tensor>> copies;
  // Those that were ever written: pages of this process's own.
  std::unordered_set<const Site*> written;
};

// The base weight of a site, whatever is fused there now.
Tensor base_weight(const Site& site, const BaseWeights& known);
Tensor base_bias(const Site& site, const BaseWeights& known);  // undefined where it has none

// Writes W ← base + Σ strength · ΔW for each site, rounded once to W's dtype. One pass over W: rows are taken block by
// block, so that no temporary has W's size. The caller holds the model's weights alone (Parts::in_use).
void rebuild(const std::vector<Rebuild>& work, BaseWeights& base);

// The paths of those sites where the result would hold NaN or infinity. Writes nothing.
std::vector<std::string> non_finite(const std::vector<Rebuild>& work, const BaseWeights& base);

// The paths of those sites that have no bias, though a bias is to be fused there.
std::vector<std::string> without_bias(const std::vector<Rebuild>& work);

}  // namespace lora
