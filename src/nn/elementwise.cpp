#include "nn/elementwise.h"

#include <algorithm>
#include <cctype>
#include <string>

namespace lora {

namespace {

struct Row {
  std::string_view name;
  Activation activation;
};

constexpr Row kRows[] = {
    {"silu", Activation::silu}, {"swish", Activation::silu}, {"mish", Activation::mish},
    {"gelu", Activation::gelu}, {"relu", Activation::relu},
};

}  // namespace

std::optional<Activation> activation_named(std::string_view name) {
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const auto& row : kRows)
    if (row.name == lower) return row.activation;
  return std::nullopt;
}

Tensor activate(Activation activation, const Tensor& x) {
  switch (activation) {
    case Activation::mish: return at::mish(x);
    case Activation::gelu: return at::gelu(x);
    case Activation::relu: return at::relu(x);
    case Activation::gelu_tanh: return at::gelu(x, "tanh");
    default: return at::silu(x);
  }
}

Tensor activate(Activation activation, Tensor&& x) {
  if (!reusable(x)) return activate(activation, std::as_const(x));
  switch (activation) {
    case Activation::mish: at::mish_(x); break;
    case Activation::gelu: at::gelu_(x); break;
    case Activation::relu: at::relu_(x); break;
    case Activation::gelu_tanh: at::gelu_(x, "tanh"); break;
    default: at::silu_(x);
  }
  return std::move(x);
}

}  // namespace lora
