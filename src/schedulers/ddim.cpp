// Denoising Diffusion Implicit Models (Song, Meng & Ermon 2020, arXiv:2010.02502): equation (12), and (16) for the
// noise.
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

class DDIMScheduler final : public ConfiguredScheduler {
 public:
  explicit DDIMScheduler(SchedulerConfig config)
      : ConfiguredScheduler(std::move(config)),
        prediction_(prediction_type(config_)),
        alphas_cumprod_(alphas_cumprod_zero_snr(config_)),
        final_alpha_cumprod_(final_alpha_cumprod(config_, alphas_cumprod_)) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options);
    steps_.start(table_timesteps(config_, num_inference_steps));
    stride_ = trained_ / num_inference_steps;
  }

  void set_begin_index(int) override {}  // a step depends only on its timestep

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check(stride_ > 0, ErrorKind::usage, "DDIMScheduler: call set_timesteps before step");
    check(options.eta >= 0 && options.eta <= 1, ErrorKind::usage, "DDIMScheduler: eta is {}; it must be from 0 to 1",
          options.eta);
    check_step_inputs(model_output, sample);
    auto t = table_index(timestep, trained_), t_prev = t - stride_;
    auto alpha_bar = alphas_cumprod_[t];
    auto alpha_bar_prev = t_prev >= 0 ? alphas_cumprod_[t_prev] : final_alpha_cumprod_;
    auto beta_bar = 1 - alpha_bar;

    auto [x0, epsilon] = predict_clean_and_noise(prediction_, model_output, sample, alpha_bar);
    x0 = limit_sample(config_, x0);

    auto variance = (1 - alpha_bar_prev) / beta_bar * (1 - alpha_bar / alpha_bar_prev);
    auto sigma = options.eta * variance.pow(0.5);
    // Rounding can make the difference negative if eta is 1.
    auto direction = (1 - alpha_bar_prev - sigma.pow(2)).clamp_min(0).pow(0.5) * epsilon;
    auto prev_sample = alpha_bar_prev.pow(0.5) * x0 + direction;
    if (options.eta > 0) {
      auto noise =
          randn_tensor(model_output.sizes(), options.generators, model_output.scalar_type(), model_output.device());
      prev_sample = prev_sample + sigma * noise;
    }
    return {prev_sample, x0};
  }

  Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const override {
    return add_noise_by_alphas(alphas_cumprod_, {original_samples, noise, timesteps});
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<DDIMScheduler>(config_); }

 private:
  int64_t stride_ = 0;
  PredictionType prediction_;
  Tensor alphas_cumprod_, final_alpha_cumprod_;  // float32: [trained_], []
};

}  // namespace

SchedulerClass ddim_scheduler() {
  auto fields = concat({beta_fields(0.0001, 0.02, "linear"),
                        zero_snr_fields(),
                        spacing_fields("leading"),
                        prediction_fields({"epsilon", "sample", "v_prediction"}),
                        thresholding_fields(),
                        clip_fields(true),
                        {{.name = "set_alpha_to_one", .fallback = true}}});
  return scheduler_class<DDIMScheduler>("DDIMScheduler", fields);
}

}  // namespace lora
