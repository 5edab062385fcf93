#pragma once
// The state of all adapters of a pipeline, for all its components: which are loaded, active and fused, and their
// weights. This is plain data. A change edits a copy; AdapterRegistry then makes the copy the state of the pipeline.
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapters/adapter.h"

namespace lora {

// One loaded adapter.
struct LoadedAdapter {
  struct Part {
    std::shared_ptr<const Adapter> adapter;  // nullptr if the adapter does not act on this component
    SiteWeights weights;
  };
  std::string name;
  uint64_t id = 0;          // unique for each load, because names can be used again
  LoraScale scale = 1.0;    // the argument of set_adapters, for components that a hotswap adds
  std::vector<Part> parts;  // by component
};

// One adapter that is fused into the weights of one component.
struct FusedAdapter {
  std::string name;
  uint64_t id = 0;
  std::shared_ptr<const Adapter> adapter;
  SiteWeights strengths;  // its weights × lora_scale
  double lora_scale = 1;
  // Layers that would lose more than this share of their change are not written into the weights. Runs apply them as
  // factors, at the same strengths. Without a value, all layers are written.
  std::optional<double> max_loss = std::nullopt;
  // The strengths, divided between the two: each site has its strength in one of them, and 0 in the other. The registry
  // divides them after it has measured the loss.
  SiteWeights in_weights, as_factors;
  bool is_divided = true;

  // Begins anew: all sites are in the weights until the registry divides them.
  void join();
};

// One adapter that a run applies, and where.
struct ActingAdapter {
  std::string name;
  std::shared_ptr<const Adapter> adapter;
  SiteWeights weights;
  std::vector<bool> images;  // which images of the batch take the adapter; empty for all
  Tensor mask;               // [H, W] over the latent image, float32; undefined for the whole image
};

// The parts of a loaded adapter, by component; nullptr for a component without a part.
using AdapterParts = std::vector<std::shared_ptr<const Adapter>>;

struct AdapterState {
  struct Component {
    std::vector<std::string> active;  // as set_adapters set them, with fused ones
    std::vector<FusedAdapter> fused;  // in the order in which they were fused
  };
  std::vector<std::shared_ptr<const LoadedAdapter>> loaded;  // in load order; states share the entries
  // Words without layers, named by their words, in load order. They stay whatever happens to adapters.
  std::vector<std::shared_ptr<const LoadedAdapter>> textual_inversions;
  std::vector<Component> components;
  bool enabled = true;  // if false, the output is that of the base model
  int next_default = 0;
  uint64_t next_id = 0;
  uint64_t parts_version = 0;  // counts the changes of the loaded tensors

  // ---- Reading ----

  const LoadedAdapter* find(const std::string& name) const;  // nullptr if no adapter has that name
  // The part of an adapter for a component. Throws Error{not_found} that lists the adapters of the component.
  std::shared_ptr<const Adapter> part(const std::string& name, size_t component) const;
  std::vector<std::string> names(size_t component) const;  // in load order
  bool is_active(const std::string& name) const;           // in any component
  // A loaded adapter as it is fused into the first component that has it fused; otherwise nullptr.
  const FusedAdapter* fused_as(const std::string& name) const;
  // The adapters that runs of a component apply: first beside_weights(), then the active ones that are not fused. Empty
  // if disabled.
  std::vector<ActingAdapter> acting(size_t component) const;
  // The layers of fused adapters that are not in the weights (FusedAdapter::max_loss). All runs apply them, as they use
  // the weights: whatever is active, loaded, or given to a call. Empty if disabled.
  std::vector<ActingAdapter> beside_weights(size_t component) const;
  // Whether a loaded adapter is in the weights of this component now. Always false if disabled.
  bool is_fused(const LoadedAdapter& adapter, size_t component) const;

  // ---- Edits. After an exception, the copy is not usable, and the registry has not changed ----

  // The name for a new adapter: `wanted`, or the next free default_{i} if it is empty. Throws Error{conflict} if the
  // name is in use.
  std::string new_name(const std::string& wanted);
  // Adds an adapter with weight 1. It becomes the only active adapter in all components.
  void add(const std::string& name, const AdapterParts& parts);
  // Adds the part of a new or a loaded adapter for one component. It becomes the only active adapter there.
  void add_part(const std::string& name, size_t component, std::shared_ptr<const Adapter> part, double weight = 1);
  // Replaces the parts of an adapter. Weights, active and fused do not change. For a component that the adapter gains,
  // `weights` are its weights, and the rest is as in the other components. A component that the adapter loses no longer
  // has it.
  void replace(const std::string& name, const AdapterParts& parts, const std::vector<SiteWeights>& weights);
  void replace_part(const std::string& name, size_t component, std::shared_ptr<const Adapter> part);
  // Makes these adapters the active ones in all components that have them. `weights` is by name, then by component.
  void set(const std::vector<std::string>& names, const std::vector<LoraScale>& scales,
           const std::vector<std::vector<SiteWeights>>& weights);
  // Removes adapters. If they are fused, they are also removed from the weights.
  void remove(const std::vector<std::string>& names);
  // Removes all adapters. Fused adapters stay in the weights.
  void unload();
  // Fuses adapters into the weights. An adapter that is already fused is fused again with the new strength.
  void fuse(const std::vector<std::string>& names, size_t component, double lora_scale,
            std::optional<double> max_loss = std::nullopt);
  // Removes the named adapters from the weights, or all fused adapters if the list is empty.
  void unfuse(const std::vector<std::string>& names, size_t component);
  // Adds a word. `parts` have no layers.
  void add_textual_inversion(const std::string& word, const AdapterParts& parts);
  void remove_textual_inversions(const std::vector<std::string>& words);
  // Moves the tensors of an adapter. Its fused parts do not change.
  void move(const std::string& name, Device device);

 private:
  LoadedAdapter copy(const std::string& name) const;
  void put(LoadedAdapter adapter);
};

}  // namespace lora
