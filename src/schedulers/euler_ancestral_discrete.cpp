// Ancestral sampling with Euler steps (k-diffusion's sample_euler_ancestral; Song et al. 2021, arXiv:2011.13456). Each
// step goes below the next noise level, then adds fresh noise up to that level.
#include <ATen/ATen.h>

#include "nn/random.h"
#include "schedulers/betas.h"
#include "schedulers/euler_scheduler.h"
#include "schedulers/registry.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

class EulerAncestralDiscreteScheduler final : public EulerScheduler {
 public:
  explicit EulerAncestralDiscreteScheduler(const SchedulerConfig& config)
      : EulerScheduler(config, alphas_cumprod_above_zero(config)) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options);
    auto timesteps = spaced(num_inference_steps);
    auto sigmas = sigmas_at(timesteps);
    sigmas.push_back(0);
    sigmas_ = to_float32(sigmas);
    steps_.start(timesteps);
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    auto sigma = sigmas_[i], next = sigmas_[i + 1];
    auto up = (next.pow(2) * (sigma.pow(2) - next.pow(2)) / sigma.pow(2)).pow(0.5);
    auto down = (next.pow(2) - up.pow(2)).pow(0.5);

    auto [x, x0, derivative] = denoise(model_output, sample, sigma);
    auto noise =
        randn_tensor(model_output.sizes(), options.generators, model_output.scalar_type(), model_output.device());
    auto prev_sample = x + derivative * (down - sigma) + noise * up;
    steps_.advance();
    return {prev_sample.to(model_output.scalar_type()), x0};
  }

  std::unique_ptr<Scheduler> clone() const override {
    return std::make_unique<EulerAncestralDiscreteScheduler>(config_);
  }
};

}  // namespace

SchedulerClass euler_ancestral_discrete_scheduler() {
  auto fields = concat({beta_fields(0.0001, 0.02, "linear"), zero_snr_fields(), spacing_fields("linspace"),
                        prediction_fields({"epsilon", "v_prediction"})});
  return scheduler_class<EulerAncestralDiscreteScheduler>("EulerAncestralDiscreteScheduler", fields);
}

}  // namespace lora
