// Latent Consistency Models' multistep sampling (Luo et al. 2023, arXiv:2310.04378, algorithm 3).
#include <ATen/ATen.h>

#include "core/check.h"
#include "nn/random.h"
#include "schedulers/betas.h"
#include "schedulers/configured_scheduler.h"
#include "schedulers/noise.h"
#include "schedulers/prediction.h"
#include "schedulers/registry.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

class LCMScheduler final : public ConfiguredScheduler {
 public:
  explicit LCMScheduler(SchedulerConfig config)
      : ConfiguredScheduler(std::move(config)),
        original_steps_(original_inference_steps(config_)),
        prediction_(prediction_type(config_)),
        alphas_cumprod_(alphas_cumprod_zero_snr(config_)) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, original_steps_, options);
    steps_.start(distilled_timesteps(config_, num_inference_steps));
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    auto t = table_index(timestep, trained_);
    auto x0 = limit_sample(config_, predict_clean_and_noise(prediction_, model_output, sample, alphas_cumprod_[t]).x0);

    // c_skip and c_out of the boundary condition, with sigma_data 0.5.
    auto scaled = at::scalar_tensor(t, at::kLong) * config_.number("timestep_scaling");
    auto c_skip = 0.25 / (scaled.pow(2) + 0.25), c_out = scaled / (scaled.pow(2) + 0.25).pow(0.5);
    auto denoised = c_out * x0 + c_skip * sample;

    auto prev_sample = denoised;
    if (i + 1 < steps_.count()) {
      auto alpha_bar_prev = alphas_cumprod_[steps_.timesteps()[i + 1].item<int64_t>()];
      auto noise =
          randn_tensor(model_output.sizes(), options.generators, denoised.scalar_type(), model_output.device());
      prev_sample = alpha_bar_prev.sqrt() * denoised + (1 - alpha_bar_prev).sqrt() * noise;
    }
    steps_.advance();
    return {prev_sample, denoised};
  }

  Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const override {
    return add_noise_by_alphas(alphas_cumprod_, {original_samples, noise, timesteps});
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<LCMScheduler>(config_); }

 private:
  int64_t original_steps_;
  PredictionType prediction_;
  Tensor alphas_cumprod_;  // float32 [trained_]
};

}  // namespace

SchedulerClass lcm_scheduler() {
  auto fields = concat({beta_fields(0.00085, 0.012, "scaled_linear"),
                        zero_snr_fields(),
                        spacing_fields("leading"),
                        prediction_fields({"epsilon", "sample", "v_prediction"}),
                        thresholding_fields(),
                        clip_fields(false),
                        {{.name = "original_inference_steps", .fallback = 50, .least = 1, .most = 1e5},
                         {.name = "set_alpha_to_one", .fallback = true},
                         {.name = "timestep_scaling", .fallback = 10.0}}});
  return scheduler_class<LCMScheduler>("LCMScheduler", fields);
}

}  // namespace lora
