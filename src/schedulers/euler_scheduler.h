#pragma once
// The base of the schedulers that take Euler steps on samples clean + sigma · noise (Karras et al. 2022,
// arXiv:2206.00364).
#include <vector>

#include "schedulers/configured_scheduler.h"
#include "schedulers/prediction.h"
#include "schedulers/sigmas.h"

namespace lora {

class EulerScheduler : public ConfiguredScheduler {
 public:
  double init_noise_sigma() const override;

 protected:
  EulerScheduler(SchedulerConfig config, const Tensor& alphas_cumprod);

  Tensor do_scale_model_input(const Tensor& sample, const Tensor& timestep) override;
  Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const override;

  // The spaced timesteps of a run, float32: the reference computes the noise levels from the rounded timesteps.
  Tensor spaced(int64_t count) const;
  // The noise levels at these float32 timesteps.
  std::vector<double> sigmas_at(const Tensor& timesteps) const;

  // The clean sample that a model output predicts.
  Tensor predict_clean(const Tensor& model_output, const Tensor& sample, const Tensor& sigma) const;

  // One sample, float32, and what the model says of it.
  struct Denoised {
    Tensor x, x0;       // the sample and the predicted clean sample
    Tensor derivative;  // of x by sigma
  };
  Denoised denoise(const Tensor& model_output, const Tensor& sample, const Tensor& sigma) const;

  PredictionType prediction_;
  SigmaTable table_;
  Tensor sigmas_;  // float32, on the CPU: the levels of the run, and the level after its last step
};

}  // namespace lora
