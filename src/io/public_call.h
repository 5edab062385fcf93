#pragma once
// Runs a public call: the caller's libtorch modes have no effect inside, and every failure is an Error.
#include <ATen/ThreadLocalState.h>
#include <c10/core/GradMode.h>

#include "core/edge.h"
#include "lora/tensor.h"

namespace lora {

// Gives this thread libtorch's modes of a new thread: no inference mode, no autocast. Also turns gradients off. So new
// tensors are not inference tensors, which could not be written to later. The destructor restores the modes.
class FreshState {
 public:
  FreshState();

 private:
  at::ThreadLocalStateGuard state_;
  c10::NoGradGuard no_grad_;
};

template <class F>
auto public_call(F&& f) {
  return edge([&] {
    FreshState fresh;
    return std::forward<F>(f)();
  });
}

// The same tensor over the same memory, but not an inference tensor. Call it inside a FreshState.
Tensor without_inference(const Tensor& t);

}  // namespace lora
