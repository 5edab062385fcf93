#pragma once
// How a public call runs: libtorch's thread-local modes of the caller do not matter, and what fails is an Error.
#include <ATen/ThreadLocalState.h>
#include <c10/core/GradMode.h>

#include "core/edge.h"
#include "lora/tensor.h"

namespace lora {

// While it lives, this thread is as a fresh one to libtorch: no inference mode, no autocast. Nothing that is made
// becomes an inference tensor, which could neither be written to nor trained beside later. Gradients are off.
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

// The same tensor, over the same memory, free of inference mode. Inside a FreshState.
Tensor without_inference(const Tensor& t);

}  // namespace lora
