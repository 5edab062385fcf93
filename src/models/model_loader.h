#pragma once
// Fills a model with the tensors of a file, or with random weights.
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "lora/model.h"
#include "lora/state_dict.h"
#include "nn/scope.h"

namespace lora {

// Other names that a file may have for the tensor `name`, best first.
using Aliases = std::function<std::vector<std::string>(const std::string& name)>;

// Fills one model. Usage:
//   ModelLoader loader(tensors, label, options);
//   auto impl = std::make_shared<Impl>(Impl{.s = loader.root(), …});
//   auto parts = loader.finish();
class ModelLoader {
 public:
  // `tensors` must exist until finish().
  ModelLoader(const StateDict& tensors, std::string label, const ModelOptions& options, Aliases aliases = {});
  // Random normal weights with a standard deviation of 0.02. The weights of norms have a mean of 1, all others 0. A
  // tensor depends only on the seed, its name and its shape.
  static ModelLoader random(uint64_t seed, const ModelOptions& options);

  Scope root() const { return Scope(parts_, source_); }
  Dtype dtype() const { return source_->dtype; }
  Device device() const { return source_->device; }

  // Returns the parts. Call it after all layers are made. The StateDict may be destroyed afterwards. Throws
  // Error{bad_key, bad_shape} that lists all tensors that are missing or do not fit. Tensors that no layer took and
  // `ignorable` does not name are a note. If one of them is of a layer that the model has, or of a block like those of
  // the model, the config describes another model: Error{bad_key}.
  std::shared_ptr<Parts> finish(const std::set<std::string>& ignorable = {});
  const std::vector<std::string>& notes() const { return notes_; }  // after finish()

 private:
  ModelLoader() = default;

  std::shared_ptr<Parts> parts_ = std::make_shared<Parts>();
  std::shared_ptr<TensorSource> source_ = std::make_shared<TensorSource>();
  const StateDict* tensors_ = nullptr;
  std::vector<std::string> notes_;
  std::shared_ptr<std::set<const Tensor*>> taken_ = std::make_shared<std::set<const Tensor*>>();
};

}  // namespace lora
