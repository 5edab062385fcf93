#pragma once
// What a delta around another one leaves as it is.
#include <memory>

#include "nn/delta.h"

namespace lora {

class WrappedDelta : public Delta {
 public:
  explicit WrappedDelta(std::shared_ptr<const Delta> inner) : inner_(std::move(inner)) {}

  const char* algorithm() const override { return inner_->algorithm(); }
  int64_t rank() const override { return inner_->rank(); }
  double alpha() const override { return inner_->alpha(); }
  double scale() const override { return inner_->scale(); }
  Device device() const override { return inner_->device(); }
  bool is_dense() const override { return inner_->is_dense(); }
  std::string beyond_tensors() const override { return inner_->beyond_tensors(); }

 protected:
  std::shared_ptr<const Delta> inner_;
};

}  // namespace lora
