// Latent Consistency Models' multistep sampling (Luo et al. 2023, arXiv:2310.04378, algorithm 3).
#include <ATen/ATen.h>

#include "core/check.h"
#include "nn/random.h"
#include "schedulers/distilled_scheduler.h"
#include "schedulers/registry.h"

namespace lora {

namespace {

class LCMScheduler final : public DistilledScheduler {
 public:
  explicit LCMScheduler(SchedulerConfig config) : DistilledScheduler(std::move(config)) {}

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

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<LCMScheduler>(config_); }
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
