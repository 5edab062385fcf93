#include "files/change.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "kinds/diff.h"
#include "kinds/lora.h"
#include "nn/random.h"

namespace lora {

namespace {

double sum_of_products(const Tensor& a, const Tensor& b) { return (a * b).sum(at::kDouble).item<double>(); }

}  // namespace

std::vector<int64_t> shape_of(const Effect& change) {
  if (!change.A.defined()) return change.weight.sizes().vec();
  return {change.B.size(0), change.A.size(1)};
}

Tensor dense(const Effect& change) {
  if (!change.A.defined()) return change.weight;
  // What the effect makes of a weight of zeros.
  return with_effect(change, SiteKind::linear, at::zeros({1}).expand(shape_of(change)));
}

// ⟨B A, D C⟩ is the sum over BᵀD ∘ A Cᵀ, and ⟨B A, W⟩ that over W Aᵀ ∘ B.
double dot(const Effect& a, const Effect& b) {
  double sum = 0;
  if (a.A.defined() && b.A.defined())
    sum += a.scale * b.scale * sum_of_products(at::mm(a.B.t(), b.B), at::mm(a.A, b.A.t()));
  if (a.A.defined() && b.weight.defined()) sum += a.scale * sum_of_products(at::mm(b.weight, a.A.t()), a.B);
  if (a.weight.defined() && b.A.defined()) sum += b.scale * sum_of_products(at::mm(a.weight, b.A.t()), b.B);
  if (a.weight.defined() && b.weight.defined()) sum += sum_of_products(a.weight, b.weight);
  return sum;
}

double norm(const Effect& change) {
  auto square = dot(change, change);
  return std::isnan(square) ? square : std::sqrt(std::max(0.0, square));
}

Tensor bias_change_of(const LoraLayer& layer) {
  Tensor sum;
  if (auto bias = get(layer.tensors, kUpBias); bias.defined())
    sum = bias.flatten().to(at::kDouble) * strength_of(layer, rank_of(layer.tensors)).scale;
  if (auto bias = get(layer.tensors, kBiasDifference); bias.defined()) {
    auto flat = bias.flatten().to(at::kDouble);
    sum = sum.defined() ? sum + flat : flat;
  }
  return sum;
}

FactorPair truncated(const Tensor& matrix, int64_t rank) {
  constexpr int64_t kMore = 16;   // directions beyond the rank
  constexpr int kIterations = 4;  // each brings the directions nearer to the matrix' own
  auto W = matrix.to(at::kFloat);
  rank = std::min({rank, W.size(0), W.size(1)});
  auto width = std::min({rank + kMore, W.size(0), W.size(1)});
  auto orthonormal = [](const Tensor& t) { return std::get<0>(at::linalg_qr(t)); };
  auto Q = orthonormal(at::mm(W, randn_tensor({W.size(1), width}, {make_generator(0)}, at::kFloat, at::kCPU)));
  for (int i = 0; i < kIterations; ++i) Q = orthonormal(at::mm(W, orthonormal(at::mm(W.t(), Q))));
  auto [U, S, Vh] = at::linalg_svd(at::mm(Q.t(), W), /*full_matrices=*/false);
  // The singular values in equal parts on both, so that neither leaves a half type's range.
  auto root = S.slice(0, 0, rank).sqrt();
  return {root.unsqueeze(1) * Vh.slice(0, 0, rank), at::mm(Q, U.slice(1, 0, rank)) * root};
}

}  // namespace lora
