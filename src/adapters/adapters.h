#pragma once
// The adapters of one component: what is loaded, what applies and how strongly, what is fused. It sees sites by path
// and never a model's type.
#include <functional>
#include <mutex>

#include "adapters/adapter.h"
#include "adapters/fuse.h"
#include "adapters/stack.h"

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
  bool enabled() const;
  std::shared_ptr<const Adapter> adapter(
      const std::string& name) const;  // throws Error{not_found} with the names there are

  // Adds an adapter and makes it the only active one, at weight 1. Throws Error{conflict} where the name is in use.
  void add(Adapter adapter);
  // The names here, of those given, become the active ones; weights one a name. Names that are not here are passed
  // over: the caller, who sees all components, has checked them.
  void set(const std::vector<std::string>& names, const std::vector<SiteWeights>& weights);
  // Puts an adapter in the place of the one of its name, which keeps its weight, its activity and its place in what is
  // fused. Without one of that name here it is added, active if `active`, at `weights`.
  void replace(Adapter adapter, bool active, const SiteWeights& weights = {});
  // Disabled means the base model's output, fused or not; enabling brings everything back.
  void enable(bool on);
  // Forgets adapters; what of them is fused leaves the weights.
  void remove(const std::vector<std::string>& names);
  // Forgets every adapter but leaves what is fused in the weights, where unfuse still finds it.
  void unload();

  // What of fusing those adapters cannot be: layers without a bias that one is to be fused into.
  std::vector<std::string> cannot_fuse(const std::vector<std::string>& names) const;
  static std::vector<std::string> cannot_fuse(const Adapter& adapter);
  // At which lora_scale an adapter that is loaded is fused here; nothing where it is not.
  std::optional<double> fused_scale(const std::string& name) const;
  // Where fusing those adapters at their weights × lora_scale would leave NaN or infinity: the paths.
  std::vector<std::string> would_break(const std::vector<std::string>& names, double lora_scale) const;
  // Moves adapters into the weights; one that is fused already is fused anew at the new strength.
  void fuse(const std::vector<std::string>& names, double lora_scale);
  // Takes fused adapters out again: the named ones, or all for an empty list.
  void unfuse(const std::vector<std::string>& names = {});

  // A site's weight as the file has it, in the model's dtype, whatever is fused.
  Tensor base(const Site& site) const;
  Tensor base_bias(const Site& site) const;  // the same of its bias; undefined where it has none

  // Moves an adapter's tensors; a run that needs one that is elsewhere than the model is refused.
  void to(const std::string& name, Device device);

 private:
  struct Fused {
    std::shared_ptr<const Adapter> adapter;
    SiteWeights strengths;
    double lora_scale;
  };
  struct State {
    LoadedAdapters loaded;
    std::vector<std::string> active;
    std::vector<Fused> fused;
    bool enabled = true;

    const StackEntry* find(const std::string& name) const { return lora::find(loaded, name); }
    // Puts an entry in the place of the one of its name.
    void put(StackEntry entry);
    bool is_fused(const Adapter* adapter) const;
    void fuse(const std::vector<std::string>& names, double lora_scale);
  };

  Parts& parts_;
  // Taken after Parts::in_use where both are: whoever waits for runs to end must not hold what a run may ask for.
  mutable std::mutex mutex_;
  State state_;
  BaseWeights base_;
  Stack stack_{parts_};

  // Makes the state what `edit` makes of a copy of it, which it may be asked twice, and the weights what that says,
  // touching only sites whose recipe changes. Where `edit` throws, nothing has changed.
  void update(const std::function<void(State&)>& edit);
  std::vector<Rebuild> work(const State& next) const;
  // Makes what runs apply what the state says.
  void publish();
};

}  // namespace lora
