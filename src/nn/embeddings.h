#pragma once
// Tokens and positions in time as vectors.
#include "nn/elementwise.h"
#include "nn/layers.h"
#include "nn/run.h"

namespace lora {

// A text encoder's vocabulary. Ids beyond it are rows that the run adds, on which no adapter acts.
struct TokenEmbedding {
  Scope s;
  int64_t num, dim;
  Site* site = s.vocabulary(num, dim);

  int64_t size() const;  // with what the run adds
  Tensor operator()(const Tensor& ids) const;
};

// Sinusoids of channels / 2 frequencies, from 1 down to about 1/10000.
struct Timesteps {
  int64_t channels;
  bool flip_sin_to_cos = true;  // cosines before sines
  double freq_shift = 0;

  // t [N], any real dtype → float32 [N, channels].
  Tensor operator()(const Tensor& t) const;
};

// The two layers that turn sinusoids, or any other vector, into what every residual block is told.
struct TimestepEmbedding {
  Scope s;
  int64_t in, out;
  Activation act = Activation::silu;
  std::optional<Activation> post_act = {};
  int64_t condition = 0;  // the size of a second input; 0 for none
  bool bias = true;

  std::optional<Linear> cond_proj = when<Linear>(condition > 0, s / "cond_proj", condition, in, kNoBias);
  Linear linear_1{s / "linear_1", in, out, bias};
  Linear linear_2{s / "linear_2", out, out, bias};

  // x [N, in], c [N, condition] or undefined → [N, out].
  Tensor operator()(const Tensor& x, const Tensor& c = {}) const;
};

}  // namespace lora
