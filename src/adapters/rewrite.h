#pragma once
// Builds weights with fused adapters. A weight depends only on the tensor of its file and on the list of fused
// adapters. It is always built from these two, never by subtracting an adapter. So unfusing is exact in every dtype.
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "nn/delta.h"
#include "nn/effect.h"

namespace lora {

// One fused delta and its strength (the weight of the adapter × lora_scale).
struct Ingredient {
  const Delta* delta;
  double strength;
  bool operator==(const Ingredient&) const = default;
};
using Recipe = std::vector<Ingredient>;  // empty: the base weight

// A site whose recipe changes.
struct Rebuild {
  Site* site;
  Recipe was, wanted;
  bool is_base = false;  // the site has its base weight now, so the file is not read again
};

// What a Rewrite needs to know of the weights of a pipeline.
struct BaseWeights {
  // Copies of the base weight and bias of sites that are not from a file. They exist from before the first write until
  // the site is restored.
  std::unordered_map<const Site*, std::pair<Tensor, Tensor>> copies;
  // The sites that were written at least once. Their pages belong to this process only.
  std::unordered_set<const Site*> written;
  // The sites whose write failed and could not be undone, because memory was missing. Their weights are undefined. The
  // next change builds them again.
  std::unordered_set<Site*> spoilt;

  // The weight and bias of a site without fused adapters, in the dtype and on the device of the model.
  Tensor weight(const Site& site) const;
  Tensor bias(const Site& site) const;  // undefined without a bias
};

// How the weight of a site changes, and what the rounding loses.
struct SiteChange {
  const Site* site;
  ChangeSums sums;            // over the weight; not_finite and changed are also about the bias
  bool stays_active = false;  // the site keeps its weight, and run-time factors apply (FusedAdapter::as_factors)
};

// The order of the models and their sites.
bool is_before(const SiteChange& a, const SiteChange& b);

// Measures what a Rewrite of this work would do to the sites that get fused adapters. It reads the weights and writes
// nothing.
std::vector<SiteChange> measure(const std::vector<Rebuild>& work, const BaseWeights& known);

struct RewriteBatch;

// Rewrites some weights: W ← base + Σ strength · ΔW, rounded once to the dtype of W, in one pass over W. It works on
// blocks of rows, so that temporaries are smaller than W.
//
// The constructor does everything that can fail: it computes the effects and allocates the memory for the writes. There
// are two exceptions. Dense effects may need too much memory at once, so write() computes them in waves. On a GPU, the
// writes themselves need memory. For both, the constructor also allocates what undo needs.
class Rewrite {
 public:
  Rewrite(std::vector<Rebuild> work, BaseWeights& known);
  ~Rewrite();
  Rewrite(const Rewrite&) = delete;
  Rewrite& operator=(const Rewrite&) = delete;

  bool empty() const { return work_.empty(); }
  // The weight and bias of a site after the rewrite, in new memory. Undefined if they do not change.
  Tensor weight(const Site& site) const;
  Tensor bias(const Site& site) const;

  // Writes all weights, and returns what it did to the sites that got fused adapters. If it throws, all weights are as
  // before (but see BaseWeights::spoilt). The caller keeps the gate closed.
  std::vector<SiteChange> write();

 private:
  std::vector<Rebuild> work_;  // first the prepared sites, then those for the waves
  size_t prepared_ = 0;
  BaseWeights& known_;
  std::vector<const Site*> copied_;  // the sites whose base weights were copied for this rewrite
  bool written_ = false;
  std::vector<SiteChange> changes_;      // of the sites that were written so far
  std::unique_ptr<RewriteBatch> ready_;  // for the prepared sites
  std::unique_ptr<RewriteBatch> undo_;   // the present weights of the sites for the waves

  void copy_bases();
  void undo(size_t end);
  const Rebuild* find(const Site& site) const;
};

}  // namespace lora
