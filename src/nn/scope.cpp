#include "nn/scope.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "core/edge.h"
#include "io/mapped_file.h"
#include "io/public_call.h"

namespace lora {

Scope Scope::operator/(const std::string& name) const {
  Scope inner = *this;
  inner.path_ = full(name);
  return inner;
}

Scope Scope::in(Dtype dtype) const {
  Scope same = *this;
  same.dtype_ = dtype;
  return same;
}

Tensor Scope::original(const std::string& name, at::IntArrayRef shape) const {
  auto t = source_->get(full(name), shape);
  const bool is_number = !t.defined() || t.is_floating_point();
  if (t.defined() && is_number && t.sizes() == shape) return t;
  constexpr size_t kEnough = 100;
  if (source_->problems.size() >= kEnough) return at::empty({0});
  if (!t.defined())
    source_->problems.emplace_back(ErrorKind::bad_key, fmt::format("tensor \"{}\" is missing", full(name)));
  else if (!is_number)
    source_->problems.emplace_back(
        ErrorKind::unsupported,
        fmt::format("{} has dtype {}; weights must be floating-point numbers, not quantized to others", full(name),
                    to_string(t.scalar_type())));
  else
    source_->problems.emplace_back(ErrorKind::bad_shape, fmt::format("{} has shape {}, but the config needs {}",
                                                                     full(name), c10::str(t.sizes()), c10::str(shape)));
  return at::empty({0});  // empty, because a config may ask for any size
}

Tensor Scope::keep(const std::string& name, const Tensor& original) const {
  Tensor t;
  try {
    t = without_inference(original.to(source_->device, dtype()).contiguous());
  } catch (const std::exception& e) {  // usually missing memory; see TensorSource::problems
    auto kind = is_out_of_memory(e) ? ErrorKind::out_of_memory : ErrorKind::io;
    source_->problems.emplace_back(kind, fmt::format("tensor \"{}\" cannot be moved to {}: {}", full(name),
                                                     c10::str(source_->device), message_of(e)));
    t = at::empty({0});
  }
  parts_->tensors.set(full(name), t);
  return t;
}

Tensor Scope::tensor(const std::string& name, at::IntArrayRef shape) const { return keep(name, original(name, shape)); }

Site* Scope::site(SiteKind kind, at::IntArrayRef shape, bool bias, ConvGeometry geometry) const {
  auto site = std::make_unique<Site>();
  site->path = path_;
  site->kind = kind;
  site->geometry = std::move(geometry);
  site->index = parts_->sites.size();
  site->owner = parts_.get();

  // A converted copy can be made again from a mapped file. Keeping the mapping does not cost memory.
  auto load = [&](const char* name, at::IntArrayRef wanted, Tensor& value, Tensor& source) {
    auto from_file = original(name, wanted);
    value = keep(name, from_file);
    if (value.data_ptr() == from_file.data_ptr()) return;
    source = pristine(from_file);
    if (source.defined()) CleanPages().release(from_file);  // read once
  };
  load("weight", shape, site->weight, site->weight_source);
  if (bias) load("bias", shape[0], site->bias, site->bias_source);

  parts_->by_path[path_] = site.get();
  return parts_->sites.emplace_back(std::move(site)).get();
}

Site* Scope::vocabulary(int64_t num, int64_t dim) const {
  auto* site = this->site(SiteKind::embedding, {num, dim}, kNoBias);
  parts_->vocabulary = site;
  return site;
}

}  // namespace lora
