#pragma once
// Elementwise operations between layers. They reuse the memory of a temporary if nothing else needs it, because new
// memory costs more than the arithmetic.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <optional>
#include <string_view>
#include <utility>

#include "lora/tensor.h"

namespace lora {

// True if nothing else uses the memory of x and no gradient needs its values.
inline bool reusable(const Tensor& x) {
  return !c10::GradMode::is_enabled() && x.use_count() == 1 && x.storage().use_count() == 1;
}

// a + b and a · b. b broadcasts to a.
inline Tensor plus(Tensor&& a, const Tensor& b) { return reusable(a) ? std::move(a.add_(b)) : a + b; }
inline Tensor times(Tensor&& a, const Tensor& b) { return reusable(a) ? std::move(a.mul_(b)) : a * b; }

enum class Activation { silu, mish, gelu, relu, gelu_tanh };

// The activation with this name in a config: "silu" or "swish", "mish", "gelu" or "relu", in upper or lower case.
// nullopt for other names. The approximation gelu_tanh does not have a name, because networks use it without a config
// field.
std::optional<Activation> activation_named(std::string_view name);

Tensor activate(Activation activation, const Tensor& x);
Tensor activate(Activation activation, Tensor&& x);

}  // namespace lora
