#pragma once
// All adapters of one pipeline, for all its components. Readers and calls see one consistent snapshot. A change applies
// to all components or to none.
//
// A change has four steps. If a step fails, nothing changes:
//   1. Copy the state and edit the copy.
//   2. Prepare everything for all components: the runs, and the plan and the memory for the weights to write.
//   3. Write the weights while the gate keeps runs out.
//   4. Publish one snapshot.
#include <functional>
#include <mutex>

#include "adapters/build_run.h"
#include "adapters/rewrite.h"
#include "adapters/state.h"

namespace lora {

struct AdapterSnapshot : Runs {
  AdapterState state;
};

// Threads: any number may use a registry at the same time. Changes are serialised. A change that writes weights waits
// for the runs that have begun, and later runs wait for the change (Gate).
class AdapterRegistry final : public RunSource {
 public:
  struct Component {
    std::string name;
    std::shared_ptr<Parts> parts;
  };
  // Becomes the source of the runs of these models. Throws Error{conflict} if a model belongs to another pipeline.
  explicit AdapterRegistry(std::vector<Component> components);
  // The models keep their weights, with fused adapters. Adapters that are not fused no longer apply.
  ~AdapterRegistry();
  AdapterRegistry(const AdapterRegistry&) = delete;
  AdapterRegistry& operator=(const AdapterRegistry&) = delete;

  const std::vector<Component>& components() const { return components_; }
  // The index of a component. Throws Error{usage} that lists the names of the components.
  size_t index_of(const std::string& name) const;

  std::shared_ptr<const Runs> snapshot() const override { return current(); }
  std::shared_ptr<const AdapterSnapshot> current() const;
  // The snapshot that a scope of a registry has pinned.
  static const AdapterSnapshot& of(const SnapshotScope& scope) {
    return static_cast<const AdapterSnapshot&>(*scope.snapshot());
  }

  // Applies `edit` to a copy of the state, rebuilds the weights that change, then makes the copy the current state.
  // `edit` may run twice, because another change may come first while this one waits for the gate. Throws what `edit`
  // throws. Throws Error{conflict} if weights would change inside a run of the same pipeline. With Results::finite,
  // throws Error{unsupported} if a weight would contain NaN or infinity.
  //
  // Returns what happened to the sites that got fused adapters. The write itself measures it. An adapter with a
  // max_loss must be measured before: a first pass over its weights finds the layers that stay run-time factors.
  enum class Results { any, finite };
  using Edit = std::function<void(AdapterState&)>;
  std::vector<SiteChange> change(const Edit& edit, Results results = Results::any);
  // What change() would return for all sites that have fused adapters after the edit, also if they have them now. It
  // reads the weights and changes nothing.
  std::vector<SiteChange> measure(const Edit& edit) const;

  // The weight and bias of a site without fused adapters, in the dtype of the model. Call them inside a SnapshotScope.
  Tensor base(const Site& site) const { return base_.weight(site); }
  Tensor base_bias(const Site& site) const { return base_.bias(site); }  // undefined without a bias
  // The weights that a run uses inside a SnapshotScope with this state.
  WeightsOfRun weights(const AdapterState& state, size_t component) const;

 private:
  std::vector<Component> components_;
  std::mutex changing_;  // locked after the gate, never before: callbacks in a run make changes too
  BaseWeights base_;     // written only while the gate is closed; runs read it
  mutable std::mutex publishing_;
  std::shared_ptr<const AdapterSnapshot> current_;

  std::vector<Rebuild> work(const AdapterState& now, const AdapterState& next) const;
  std::shared_ptr<const AdapterSnapshot> prepare(AdapterState next, const Rewrite& rewrite) const;
  void publish(std::shared_ptr<const AdapterSnapshot> snapshot);
  std::vector<SiteChange> measure(const AdapterState& before, const AdapterState& next) const;
  void check_finite(const std::vector<SiteChange>& changes) const;
};

}  // namespace lora
