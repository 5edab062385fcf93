#include "io/public_call.h"

#include <ATen/ATen.h>

#include <thread>

namespace lora {

namespace {

// libtorch's thread-local state of a new thread.
const at::ThreadLocalState& fresh_state() {
  static const at::ThreadLocalState state = [] {
    std::optional<at::ThreadLocalState> fresh;
    std::thread([&] { fresh.emplace(); }).join();
    return *fresh;
  }();
  return state;
}

}  // namespace

FreshState::FreshState() : state_(fresh_state()) {}

Tensor without_inference(const Tensor& t) {
  if (!t.is_inference()) return t;
  return at::empty({0}, t.options()).set_(t.storage(), t.storage_offset(), t.sizes(), t.strides());
}

}  // namespace lora
