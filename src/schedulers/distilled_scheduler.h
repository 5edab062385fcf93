#pragma once
// The base of the schedulers of distilled models, LCM and TCD: their state, and their timesteps.
#include "schedulers/betas.h"
#include "schedulers/configured_scheduler.h"
#include "schedulers/noise.h"
#include "schedulers/prediction.h"
#include "schedulers/timesteps.h"

namespace lora {

class DistilledScheduler : public ConfiguredScheduler {
 public:
  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, original_steps_, options);
    steps_.start(distilled_timesteps(config_, num_inference_steps));
  }

  Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const override {
    return add_noise_by_alphas(alphas_cumprod_, {original_samples, noise, timesteps});
  }

 protected:
  explicit DistilledScheduler(SchedulerConfig config)
      : ConfiguredScheduler(std::move(config)),
        original_steps_(original_inference_steps(config_)),
        prediction_(prediction_type(config_)),
        alphas_cumprod_(alphas_cumprod_zero_snr(config_)) {}

  int64_t original_steps_;
  PredictionType prediction_;
  Tensor alphas_cumprod_;  // float32 [trained_]
};

}  // namespace lora
