#pragma once
// A weight is a function of what its file holds and of the list of what is fused into it, and of nothing else. It is
// always made from these two, never by subtracting, so that undoing is exact in every dtype.
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "nn/delta.h"

namespace lora {

// One delta to be fused and its strength (the adapter's weight × lora_scale).
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
  bool is_base = false;  // the site holds its base weight now: the file's need not be read again
};

// What rewriting has to remember of a pipeline's weights.
struct BaseWeights {
  // The base weight and bias of those that came from no file, from before they are first written until they are
  // restored.
  std::unordered_map<const Site*, std::pair<Tensor, Tensor>> copies;
  // Those that were ever written: pages of this process's own.
  std::unordered_set<const Site*> written;
  // Those that a failed write left in neither state, for which even the memory to undo it was missing. The next change
  // makes them again.
  std::unordered_set<Site*> spoilt;

  // A site's weight and bias as the file has them, in the model's dtype and on its device, whatever is fused there now.
  Tensor weight(const Site& site) const;
  Tensor bias(const Site& site) const;  // undefined where it has none
};

// The rewriting of some weights: W ← base + Σ strength · ΔW, rounded once to W's dtype, in one pass over W. Rows are
// taken block by block, so that no temporary has W's size.
//
// Making one does all that can fail: it computes the effects and reserves the memory for writing them. There are two
// exceptions. Kinds whose effects are whole weights may take too much memory at once: write() computes those in waves.
// And writing on a GPU takes memory there. For both, what undoing needs is reserved as well.
class Rewrite {
 public:
  Rewrite(std::vector<Rebuild> work, BaseWeights& known);
  ~Rewrite();
  Rewrite(const Rewrite&) = delete;
  Rewrite& operator=(const Rewrite&) = delete;

  bool empty() const { return work_.empty(); }
  // The weight and bias of a site as they will be, in memory of their own; undefined where they stay as they are.
  Tensor weight(const Site& site) const;
  Tensor bias(const Site& site) const;
  // The sites that would hold NaN or infinity.
  std::vector<const Site*> non_finite() const;

  // All or nothing: where it throws, every weight is as it was. The caller holds the gate closed.
  void write();

 private:
  struct Target;
  struct Batch;

  std::vector<Rebuild> work_;  // those that are prepared, then those that come in waves
  size_t prepared_ = 0;
  BaseWeights& known_;
  std::vector<const Site*> copied_;  // base weights that were copied for this
  bool written_ = false;
  std::unique_ptr<Batch> ready_;  // of what is prepared
  std::unique_ptr<Batch> undo_;   // of what comes in waves, as it is now

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
