#pragma once
// How a model fills itself: a Scope names a place in the checkpoint ("down_blocks.0.resnets.1") and gives the layer
// declared there its tensors, checked, and its site, listed. Nothing is initialised to be overwritten, registered by
// hand, or forgotten.
#include <functional>
#include <optional>
#include <set>

#include "lora/error.h"
#include "nn/applied.h"

namespace lora {

inline constexpr bool kNoBias = false;

// Where tensors come from, and what they are to become.
struct TensorSource {
  // The tensor of that name, or an undefined one. A model of random weights draws one of the wanted shape instead.
  std::function<Tensor(const std::string& name, at::IntArrayRef shape)> get;
  std::string label;  // for messages: the file or folder
  Dtype dtype = Dtype::Float;
  Device device = at::kCPU;
  // What was wrong so far. Told when the model is whole: all of it at once, and not by an exception out of a half-built
  // aggregate, whose members GCC 12 destroys twice.
  mutable std::vector<Error> problems;
};

class Scope {
 public:
  // The root of a model. `parts` outlives every layer: each keeps it.
  Scope(std::shared_ptr<Parts> parts, std::shared_ptr<const TensorSource> source)
      : parts_(std::move(parts)), source_(std::move(source)) {}

  Scope operator/(const std::string& name) const;
  Scope operator/(int64_t i) const { return *this / std::to_string(i); }
  // The same place, its tensors in that dtype whatever the model's is.
  Scope in(Dtype dtype) const;
  Dtype dtype() const { return dtype_.value_or(source_->dtype); }

  // The tensor `<path>.<name>` in dtype() and on the model's device: the file's own memory where it already is both.
  // Where it is missing or its sizes are not `shape`, that is one of the source's problems, and an empty tensor stands
  // in.
  Tensor tensor(const std::string& name, at::IntArrayRef shape) const;
  // Lists this place as a site, its weight [shape] and, if wanted, its bias [shape[0]] loaded.
  Site* site(SiteKind kind, at::IntArrayRef shape, bool bias, ConvGeometry geometry = {}) const;
  // The same for the one embedding [num, dim] of token ids that a text encoder has.
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

// A list of like layers under s.0, s.1, …
template <class Layer, class... Args>
std::vector<Layer> repeat(const Scope& s, int64_t n, const Args&... args) {
  std::vector<Layer> layers;
  for (int64_t i = 0; i < n; ++i) layers.push_back(Layer{s / i, args...});
  return layers;
}

// A layer that is there or not.
template <class Layer, class... Args>
std::optional<Layer> when(bool present, const Scope& s, const Args&... args) {
  if (!present) return std::nullopt;
  return Layer{s, args...};
}

}  // namespace lora
