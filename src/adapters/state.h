#pragma once
// All adapters of a pipeline, over all its components: what is loaded, what is active and how strongly, what is fused.
// Plain data. A change is an edit of a copy, which AdapterRegistry then makes the pipeline's state.
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapters/adapter.h"

namespace lora {

// One adapter as it is loaded.
struct LoadedAdapter {
  struct Part {
    std::shared_ptr<const Adapter> adapter;  // nullptr: nothing in this component
    SiteWeights weights;
  };
  std::string name;
  uint64_t id = 0;          // of its load: names can be used again
  LoraScale scale = 1.0;    // as set_adapters was given it, for components that a hotswap adds
  std::vector<Part> parts;  // by component
};

// One adapter in the weights of one component.
struct FusedAdapter {
  std::string name;
  uint64_t id = 0;
  std::shared_ptr<const Adapter> adapter;
  SiteWeights strengths;  // its weights × lora_scale
  double lora_scale = 1;
};

// What a run applies of one adapter, and on what.
struct ActingAdapter {
  std::string name;
  std::shared_ptr<const Adapter> adapter;
  SiteWeights weights;
  std::vector<bool> images;  // which images of the batch take it; empty for all
  Tensor mask;               // [H, W] over the latent image, float32; undefined for everywhere
};

// An adapter's parts by component, as a load makes them; nullptr for none.
using AdapterParts = std::vector<std::shared_ptr<const Adapter>>;

struct AdapterState {
  struct Component {
    std::vector<std::string> active;  // as set, fused ones included
    std::vector<FusedAdapter> fused;  // in the order of fusing
  };
  std::vector<std::shared_ptr<const LoadedAdapter>> loaded;  // in load order; states share the entries
  std::vector<Component> components;
  bool enabled = true;  // disabled means the base model's output, fused or not
  int next_default = 0;
  uint64_t next_id = 0;
  uint64_t parts_version = 0;  // counts the edits of what is loaded, beyond weights

  // ---- Reading ----

  const LoadedAdapter* find(const std::string& name) const;  // nullptr for none of that name
  // An adapter's part of a component. Throws Error{not_found} with the names that the component has.
  std::shared_ptr<const Adapter> part(const std::string& name, size_t component) const;
  std::vector<std::string> names(size_t component) const;  // in load order
  bool is_active(const std::string& name) const;           // in any component
  // At which lora_scale an adapter that is loaded is fused, in any component; nothing where it is not.
  std::optional<double> fused_scale(const std::string& name) const;
  // What a component's runs apply: the active adapters, without those that are fused; nothing while disabled.
  std::vector<ActingAdapter> acting(size_t component) const;
  // Whether an adapter that is loaded is in this component's weights now; while disabled, none is.
  bool is_fused(const LoadedAdapter& adapter, size_t component) const;

  // ---- Edits. What they throw leaves the copy unusable, and the registry as it was ----

  // The name for a new adapter: `wanted`, or the next default_{i} that is free. Throws Error{conflict} for one in use.
  std::string new_name(const std::string& wanted);
  // Adds an adapter, at weight 1, as the only active one of all components.
  void add(const std::string& name, const AdapterParts& parts);
  // Adds one component's part, of a new adapter or of one that is loaded, active there alone.
  void add_part(const std::string& name, size_t component, std::shared_ptr<const Adapter> part, double weight = 1);
  // Puts other parts in the place of an adapter's. What it is (weights, active, fused) stays; a component that it gains
  // takes `weights`, and the rest from the others. A component that it loses forgets it.
  void replace(const std::string& name, const AdapterParts& parts, const std::vector<SiteWeights>& weights);
  void replace_part(const std::string& name, size_t component, std::shared_ptr<const Adapter> part);
  // The names become the active ones of every component that has them; `weights` by name, then by component.
  void set(const std::vector<std::string>& names, const std::vector<LoraScale>& scales,
           const std::vector<std::vector<SiteWeights>>& weights);
  // Forgets adapters. Where they are fused, they leave the weights.
  void remove(const std::vector<std::string>& names);
  // Forgets all adapters; what is fused stays in the weights.
  void unload();
  // Moves adapters into the weights; one that is fused already is fused anew at the new strength.
  void fuse(const std::vector<std::string>& names, size_t component, double lora_scale);
  // Takes fused adapters out again: the named ones, or all for an empty list.
  void unfuse(const std::vector<std::string>& names, size_t component);
  // Moves an adapter's tensors. What of it is fused stays what it is.
  void move(const std::string& name, Device device);

 private:
  LoadedAdapter copy(const std::string& name) const;
  void put(LoadedAdapter adapter);
};

}  // namespace lora
