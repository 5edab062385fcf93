#pragma once
// All adapters of one pipeline, over all its components. Readers and calls see one snapshot of everything; a change
// happens everywhere or nowhere.
//
// A change goes through these steps. What fails on the way leaves everything as it was:
//   1. copy the state, edit the copy
//   2. prepare all that it needs, for every component: the runs, and the plan and memory for the weights that it writes
//   3. write the weights, while the gate keeps runs out
//   4. publish one snapshot
#include <functional>
#include <mutex>

#include "adapters/build_run.h"
#include "adapters/rewrite.h"
#include "adapters/state.h"

namespace lora {

struct AdapterSnapshot : Runs {
  AdapterState state;
};

// Any number of threads may use a registry at once. Changes happen one after the other. One that writes weights waits
// for the runs that have begun, and those that come later wait for it (Gate).
class AdapterRegistry final : public RunSource {
 public:
  struct Component {
    std::string name;
    std::shared_ptr<Parts> parts;
  };
  // Becomes the source of these models' runs. Throws Error{conflict} where a model has another pipeline's already.
  explicit AdapterRegistry(std::vector<Component> components);
  // The models stay as they are, with what is fused; nothing applies to them any more.
  ~AdapterRegistry();
  AdapterRegistry(const AdapterRegistry&) = delete;
  AdapterRegistry& operator=(const AdapterRegistry&) = delete;

  const std::vector<Component>& components() const { return components_; }
  // The number of a component. Throws Error{usage} with the names that there are.
  size_t index_of(const std::string& name) const;

  std::shared_ptr<const Runs> snapshot() const override { return current(); }
  std::shared_ptr<const AdapterSnapshot> current() const;
  // The snapshot that a scope of this registry has pinned.
  static const AdapterSnapshot& of(const SnapshotScope& scope) {
    return static_cast<const AdapterSnapshot&>(*scope.snapshot());
  }

  // Makes the state what `edit` makes of a copy of it. It may be asked twice: where weights change, the state may have
  // changed before the gate is closed. With Results::finite, Error{unsupported} where a weight would hold NaN or
  // infinity. Throws what `edit` throws, and Error{conflict} where weights would change inside a run of the same
  // pipeline.
  enum class Results { any, finite };
  void change(const std::function<void(AdapterState&)>& edit, Results results = Results::any);

  // A site's weight and bias as the file has them, in the model's dtype, whatever is fused. Inside a SnapshotScope.
  Tensor base(const Site& site) const { return base_.weight(site); }
  Tensor base_bias(const Site& site) const { return base_.bias(site); }  // undefined where it has none
  // The weights that a run inside a SnapshotScope with this state finds.
  WeightsOfRun weights(const AdapterState& state, size_t component) const;

 private:
  std::vector<Component> components_;
  std::mutex changing_;  // taken after the gate, never before it: a run's callback may change what no weight shows
  BaseWeights base_;     // written behind the closed gate, read by runs
  mutable std::mutex publishing_;
  std::shared_ptr<const AdapterSnapshot> current_;

  std::vector<Rebuild> work(const AdapterState& next) const;
  std::shared_ptr<const AdapterSnapshot> prepare(AdapterState next, const Rewrite& rewrite) const;
  void publish(std::shared_ptr<const AdapterSnapshot> snapshot);
  void check_finite(const Rewrite& rewrite) const;
};

}  // namespace lora
