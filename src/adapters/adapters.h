#pragma once
// The adapters of one component: what is loaded, what applies and how strongly, what is fused. It sees sites by path
// and never a model's type.
#include <list>
#include <mutex>

#include "adapters/adapter.h"
#include "adapters/fuse.h"

namespace lora {

class Adapters {
 public:
  // The registry of a model, made at the first asking; it lives as long as the model's parts.
  static Adapters& of(Parts& parts);
  explicit Adapters(Parts& parts) : parts_(parts) {}

  const Parts& parts() const { return parts_; }
  bool contains(const std::string& name) const;
  std::vector<std::string> names() const;   // in load order
  std::vector<std::string> active() const;  // as set, fused ones included
  std::vector<std::string> fused() const;   // each name once
  bool enabled() const { return enabled_; }
  const Adapter& adapter(const std::string& name) const;  // throws Error{not_found} with the names there are

  // Adds an adapter and makes it the only active one, at weight 1. Throws Error{conflict} where the name is in use.
  void add(Adapter adapter);
  // The names here, of those given, become the active ones; weights one a name. Names that are not here are passed
  // over: the caller, who sees all components, has checked them.
  void set(const std::vector<std::string>& names, const std::vector<double>& weights);
  // Disabled means the base model's output, fused or not; enabling brings everything back.
  void enable(bool on);
  // Forgets adapters; what of them is fused leaves the weights.
  void remove(const std::vector<std::string>& names);
  // Forgets every adapter but leaves what is fused in the weights, where unfuse still finds it.
  void unload();

  // Where fusing those adapters at their weights × lora_scale would leave NaN or infinity: the paths.
  std::vector<std::string> would_break(const std::vector<std::string>& names, double lora_scale) const;
  // Moves adapters into the weights; one that is fused already is fused anew at the new strength.
  void fuse(const std::vector<std::string>& names, double lora_scale);
  // Takes fused adapters out again: the named ones, or all for an empty list.
  void unfuse(const std::vector<std::string>& names = {});

  // Moves an adapter's tensors; a run that needs one that is elsewhere than the model is refused.
  void to(const std::string& name, Device device);

 private:
  struct Loaded {
    std::shared_ptr<const Adapter> adapter;
    double weight = 1;
  };
  struct Fused {
    std::shared_ptr<const Adapter> adapter;
    double strength;
  };

  Parts& parts_;
  mutable std::recursive_mutex mutex_;
  std::list<Loaded> loaded_;
  std::vector<std::string> active_;
  std::vector<Fused> fused_;
  bool enabled_ = true;
  BaseWeights base_;

  Loaded* find(const std::string& name);
  const Loaded* find(const std::string& name) const;
  bool is_fused(const Adapter* adapter) const;
  std::vector<Fused> with_fused(const std::vector<std::string>& names, double lora_scale) const;
  // Makes the weights what `wanted` says, touching only sites whose recipe changes.
  void write(std::vector<Fused> wanted, bool enabled);
  // Makes what runs apply what the state says.
  void publish();
};

}  // namespace lora
