#pragma once
// Adapters into what runs apply: one stack of factors a site, made once for a set of adapters; a run at other strengths
// is a new row of numbers for each.
#include "adapters/adapter.h"
#include "adapters/fuse.h"

namespace lora {

// An adapter of a run, how strongly it acts, and on what.
struct StackEntry {
  std::shared_ptr<const Adapter> adapter;
  SiteWeights weights;
  std::vector<bool> images;  // which images of the batch take it; empty for all
  Tensor mask;               // [H, W] over the latent image, float32; undefined for everywhere
};

// What is loaded, in load order, with its weights. States share the entries: a new state costs a pointer for each.
using LoadedAdapters = std::vector<std::shared_ptr<const StackEntry>>;
const StackEntry* find(const LoadedAdapters& loaded, const std::string& name);  // nullptr for none of that name

// What was loaded and fused when a run was published: a call of its own adapters reads it inside that run, without the
// registry's lock, which whoever waits for the run to end may hold.
struct AdapterState {
  LoadedAdapters loaded;
  std::vector<StackEntry> applying;  // the active ones, without those that are fused; nothing while disabled
  std::vector<std::shared_ptr<const Adapter>> fused;  // in the weights now
  const BaseWeights* base = nullptr;
  std::shared_ptr<const AddedRows> added;  // the words of all that is loaded; nullptr for none

  bool is_fused(const Adapter& adapter) const;
  // The base weight of a site that something is fused into, in the model's dtype; undefined for others.
  Tensor restored(const Site& site) const;

  // The state that a run was published with.
  static const AdapterState& of(const Run& run) { return *static_cast<const AdapterState*>(run.state.get()); }
};

class Stack {
 public:
  explicit Stack(const Parts& parts) : parts_(parts) {}

  // What runs with these adapters apply. An adapter on another device than the model is the run's problem, as is one
  // for some images or regions alone that is no low-rank one, or one that is trained beside others.
  // `tokens` and `width`: what text embeddings look like, for masks.
  std::shared_ptr<Run> run(const std::vector<StackEntry>& entries, const AdapterState& state, int64_t tokens = 0,
                           int64_t width = 0);

 private:
  // The factors of a site as they were last stacked, and of which tensors.
  struct Stacked {
    std::vector<Tensor> As, Bs;
    Tensor A, B;
  };

  const Parts& parts_;
  std::vector<Stacked> stacked_;  // by Site::index

  std::shared_ptr<const Applied> apply(const Site& site, const std::vector<std::pair<Effect, int64_t>>& effects,
                                       const Tensor& base, int64_t shared_entries);
};

}  // namespace lora
