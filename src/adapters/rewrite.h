#pragma once
// Builds weights with fused adapters. A weight depends only on the tensor of its file and on the list of fused
// adapters. It is always built from these two, never by subtracting an adapter. So unfusing is exact in every dtype.
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "nn/delta.h"

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
  // The sites whose weight or bias would contain NaN or infinity.
  std::vector<const Site*> non_finite() const;

  // Writes all weights. If it throws, all weights are as before (but see BaseWeights::spoilt). The caller keeps the
  // gate closed.
  void write();

 private:
  struct Target;
  struct Batch;

  std::vector<Rebuild> work_;  // first the prepared sites, then those for the waves
  size_t prepared_ = 0;
  BaseWeights& known_;
  std::vector<const Site*> copied_;  // the sites whose base weights were copied for this rewrite
  bool written_ = false;
  std::unique_ptr<Batch> ready_;  // for the prepared sites
  std::unique_ptr<Batch> undo_;   // the present weights of the sites for the waves

  Target target(const Site& site, const Tensor& base, const Recipe& recipe) const;
  Target as_it_is(const Site& site) const;
  std::unique_ptr<Batch> batch(size_t begin, size_t end) const;
  size_t end_of_wave(size_t begin) const;
  void copy_bases();
  static void write(const Batch& batch, size_t targets);
  void undo(size_t end);
  const Rebuild* find(const Site& site) const;
};

}  // namespace lora
