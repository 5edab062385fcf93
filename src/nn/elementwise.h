#pragma once
// Elementwise steps between layers. Given a temporary, they write over its memory where nothing else needs it: fresh
// memory costs more than the arithmetic.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <optional>
#include <string_view>
#include <utility>

#include "lora/tensor.h"

namespace lora {

// True where nobody else sees x's memory and no gradient will ask for what it holds.
inline bool reusable(const Tensor& x) {
  return !c10::GradMode::is_enabled() && x.use_count() == 1 && x.storage().use_count() == 1;
}

// a + b and a · b, where b broadcasts to a.
inline Tensor plus(Tensor&& a, const Tensor& b) { return reusable(a) ? std::move(a.add_(b)) : a + b; }
inline Tensor times(Tensor&& a, const Tensor& b) { return reusable(a) ? std::move(a.mul_(b)) : a * b; }

enum class Activation { silu, mish, gelu, relu, gelu_tanh };

// By the name in a config: "silu" or "swish", "mish", "gelu", "relu", in any case; nullopt for another.
// gelu_tanh, the approximation, is what some networks have without a field that says so.
std::optional<Activation> activation_named(std::string_view name);

Tensor activate(Activation activation, const Tensor& x);
Tensor activate(Activation activation, Tensor&& x);

}  // namespace lora
