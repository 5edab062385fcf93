#pragma once
// NaN and infinity in a run: found early, and told with their likely causes.
#include <ATen/ATen.h>

#include "adapters/finite.h"
#include "lora/autoencoders.h"
#include "lora/pipeline.h"
#include "models/parts_of.h"
#include "nn/run.h"

namespace lora {

// Throws Error{unsupported} if a tensor of a call has NaN or infinity. `what` names the tensor in the message, which
// also has the likely causes: adapters, float16.
void check_sound(const Tensor& t, const std::string& what, const DiffusionPipeline& pipe, const CallOptions& options);

inline bool is_sound(const Tensor& t) { return all_finite(t); }
inline bool is_sound(const DiagonalGaussian& latents) { return all_finite(latents.mean); }

[[noreturn]] void fail_in_autoencoder(const Model& model, const char* what);

// The same model in float32.
template <class M>
M in_float32(const M& model) {
  const RunScope present(parts_of(model));
  return M::from_state_dict(model.config(), parts_of(model).tensors, {.dtype = at::kFloat, .device = model.device()});
}

// Returns work(model). If a half precision gives NaN or infinity, returns work(the same model in float32), which takes
// longer. `what` is what the model makes, for the message of Error{unsupported} if float32 does not help.
template <class M, class Work>
auto in_enough_precision(const M& model, const char* what, Work work) {
  auto result = work(model);
  if (is_sound(result)) return result;
  if (model.dtype() == at::kFloat || model.dtype() == at::kDouble) fail_in_autoencoder(model, what);
  result = work(in_float32(model));
  if (!is_sound(result)) fail_in_autoencoder(model, what);
  return result;
}

}  // namespace lora
