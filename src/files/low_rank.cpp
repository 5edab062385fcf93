#include "files/low_rank.h"

#include <ATen/ATen.h>

#include "kinds/lora.h"
#include "nn/random.h"

namespace lora {

Factors truncated(const Tensor& matrix, int64_t rank) {
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

Factors without_core(const Module& m, const std::string& label) {
  const auto &A = m.at("lora_A.weight"), &B = m.at("lora_B.weight");
  auto down = with_tucker_core(A, m.at("lora_mid.weight"), label);
  return {down.to(A.scalar_type()), B.reshape({B.size(0), B.size(1), 1, 1})};
}

}  // namespace lora
