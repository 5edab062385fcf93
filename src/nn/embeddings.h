#pragma once
// Embeddings of tokens and of timesteps.
#include "nn/elementwise.h"
#include "nn/layers.h"
#include "nn/run.h"

namespace lora {

// The vocabulary of a text encoder. Larger ids are rows that the run adds. Adapters do not change added rows.
struct TokenEmbedding {
  Scope s;
  int64_t num, dim;
  Site* site = s.vocabulary(num, dim);

  int64_t size() const;  // with the rows that the run adds
  Tensor operator()(const Tensor& ids) const;
};

// Sinusoids of channels / 2 frequencies, from 1 down to approximately 1/10000.
struct Timesteps {
  int64_t channels;
  bool flip_sin_to_cos = true;  // cosines before sines
  double freq_shift = 0;

  // t [N], any real dtype → float32 [N, channels].
  Tensor operator()(const Tensor& t) const;
};

// Two layers that make the embedding of a timestep from its sinusoids. The input may also be another vector.
struct TimestepEmbedding {
  Scope s;
  int64_t in, out;
  Activation act = Activation::silu;
  std::optional<Activation> post_act = {};
  int64_t condition = 0;  // the size of a second input; 0 for no second input
  bool bias = true;

  std::optional<Linear> cond_proj = when<Linear>(condition > 0, s / "cond_proj", condition, in, kNoBias);
  Linear linear_1{s / "linear_1", in, out, bias};
  Linear linear_2{s / "linear_2", out, out, bias};

  // x [N, in], c [N, condition] or undefined → [N, out].
  Tensor operator()(const Tensor& x, const Tensor& c = {}) const;
};

}  // namespace lora
