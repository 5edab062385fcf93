#pragma once
// What the factories of every model share: filling a model from tensors or at random.
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "lora/model.h"
#include "lora/state_dict.h"
#include "nn/scope.h"

namespace lora {

// Names under which a file may have the tensor that a model calls `name`, best first, `name` itself left out.
using Aliases = std::function<std::vector<std::string>(const std::string& name)>;

// Fills one model:
//   ModelLoader loader(tensors, label, options);
//   auto impl = std::make_shared<Impl>(Impl{.s = loader.root(), …});
//   model.parts_ = loader.finish();
class ModelLoader {
 public:
  // `tensors` must live until finish().
  ModelLoader(const StateDict& tensors, std::string label, const ModelOptions& options, Aliases aliases = {});
  // Normal weights of standard deviation 0.02, those of norms around 1. A tensor depends on the seed, its name and its
  // shape alone.
  static ModelLoader random(uint64_t seed, const ModelOptions& options);

  Scope root() const { return Scope(parts_, source_); }
  Dtype dtype() const { return source_->dtype; }
  Device device() const { return source_->device; }

  // The parts, once every layer is made; nothing keeps the StateDict alive after that. Throws Error{bad_key, bad_shape}
  // for tensors that are missing or do not fit, all of them at once, and Error{bad_key} where the
  // file has tensors that no layer took, other than those in `ignorable`: its config then describes another model.
  std::shared_ptr<Parts> finish(const std::set<std::string>& ignorable = {});

 private:
  ModelLoader() = default;

  std::shared_ptr<Parts> parts_ = std::make_shared<Parts>();
  std::shared_ptr<TensorSource> source_ = std::make_shared<TensorSource>();
  const StateDict* tensors_ = nullptr;
  std::shared_ptr<std::set<const Tensor*>> taken_ = std::make_shared<std::set<const Tensor*>>();
};

}  // namespace lora
