#include "nn/embeddings.h"

#include <cmath>

namespace lora {

int64_t TokenEmbedding::size() const {
  auto added = RunScope::added(*site->owner);
  return num + (added ? added->rows.size(0) : 0);
}

Tensor TokenEmbedding::operator()(const Tensor& ids) const {
  auto added = RunScope::added(*site->owner);
  if (!added) return embedding(*site, ids);
  auto own = embedding(*site, ids.clamp_max(num - 1));
  auto rows = at::embedding(added->rows, (ids - num).clamp_min(0));
  return at::where((ids < num).unsqueeze(-1), own, rows);
}

Tensor Timesteps::operator()(const Tensor& t) const {
  const int64_t half = channels / 2;
  auto exponent = at::arange(half, t.options().dtype(at::kFloat)) * -std::log(10000.0) / (half - freq_shift);
  auto angles = t.to(at::kFloat).unsqueeze(1) * at::exp(exponent).unsqueeze(0);
  auto sines = at::sin(angles), cosines = at::cos(angles);
  auto waves = flip_sin_to_cos ? at::cat({cosines, sines}, -1) : at::cat({sines, cosines}, -1);
  return channels % 2 == 0 ? waves : at::constant_pad_nd(waves, {0, 1});
}

Tensor TimestepEmbedding::operator()(const Tensor& x, const Tensor& c) const {
  auto h = linear_1(c.defined() && cond_proj ? x + (*cond_proj)(c.to(x.scalar_type())) : x);
  h = linear_2(activate(act, std::move(h)));
  return post_act ? activate(*post_act, std::move(h)) : h;
}

}  // namespace lora
