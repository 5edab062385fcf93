#pragma once
// A Scope is a place in the checkpoint, such as "down_blocks.0.resnets.1". The layer declared there gets its tensors
// from the Scope, which checks them and lists the site of the layer. So layers do not initialise weights that are
// overwritten later, and models do not register layers by hand.
#include <functional>
#include <optional>
#include <set>

#include "lora/error.h"
#include "nn/applied.h"

namespace lora {

inline constexpr bool kNoBias = false;

// Where the tensors of a model come from, and the dtype and device they get.
struct TensorSource {
  // Returns the tensor of that name, or an undefined tensor. For random weights, it draws a tensor of the given shape.
  std::function<Tensor(const std::string& name, at::IntArrayRef shape)> get;
  std::string label;  // the file or folder, for error messages
  Dtype dtype = Dtype::Float;
  Device device = at::kCPU;
  // The problems so far. ModelLoader::finish() throws all of them at once when the model is complete. Exceptions during
  // the construction are not possible: GCC 12 destroys the members of a half-built aggregate twice.
  mutable std::vector<Error> problems;
};

class Scope {
 public:
  // The root of a model. All layers keep `parts`.
  Scope(std::shared_ptr<Parts> parts, std::shared_ptr<const TensorSource> source)
      : parts_(std::move(parts)), source_(std::move(source)) {}

  Scope operator/(const std::string& name) const;
  Scope operator/(int64_t i) const { return *this / std::to_string(i); }
  // The same place. Its tensors get this dtype instead of the dtype of the model.
  Scope in(Dtype dtype) const;
  Dtype dtype() const { return dtype_.value_or(source_->dtype); }

  // The tensor `<path>.<name>` in dtype() and on the device of the model. If the file has it in that dtype and place,
  // the tensor is the memory of the file. For a missing tensor, or one of another shape, it adds an entry to
  // TensorSource::problems and returns an empty tensor.
  Tensor tensor(const std::string& name, at::IntArrayRef shape) const;
  // Lists this place as a site and loads its weight [shape] and, if `bias`, its bias [shape[0]].
  Site* site(SiteKind kind, at::IntArrayRef shape, bool bias, ConvGeometry geometry = {}) const;
  // The same for the embedding [num, dim] of the token ids. A text encoder has one.
  Site* vocabulary(int64_t num, int64_t dim) const;

  const std::string& path() const { return path_; }

 private:
  std::shared_ptr<Parts> parts_;
  std::shared_ptr<const TensorSource> source_;
  std::string path_;
  std::optional<Dtype> dtype_;

  std::string full(const std::string& name) const { return path_.empty() ? name : path_ + "." + name; }
  Tensor original(const std::string& name, at::IntArrayRef shape) const;
  Tensor keep(const std::string& name, const Tensor& original) const;
};

// A list of n equal layers at s.0, s.1, …
template <class Layer, class... Args>
std::vector<Layer> repeat(const Scope& s, int64_t n, const Args&... args) {
  std::vector<Layer> layers;
  for (int64_t i = 0; i < n; ++i) layers.push_back(Layer{s / i, args...});
  return layers;
}

// A layer that only some models have.
template <class Layer, class... Args>
std::optional<Layer> when(bool present, const Scope& s, const Args&... args) {
  if (!present) return std::nullopt;
  return Layer{s, args...};
}

}  // namespace lora
