// Denoising Diffusion Implicit Models (Song, Meng & Ermon 2020, arXiv:2010.02502): equation (12), noise by (16).
#include <ATen/ATen.h>

#include "core/check.h"
#include "nn/random.h"
#include "schedulers/betas.h"
#include "schedulers/noise.h"
#include "schedulers/prediction.h"
#include "schedulers/registry.h"
#include "schedulers/steps.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

class DDIMScheduler final : public Scheduler {
 public:
  explicit DDIMScheduler(SchedulerConfig config)
      : config_(std::move(config)),
        trained_(config_.integer("num_train_timesteps")),
        prediction_(prediction_type(config_)),
        alphas_cumprod_(alphas_cumprod_zero_snr(config_)),
        final_alpha_cumprod_(config_.flag("set_alpha_to_one") ? at::scalar_tensor(1.0f, at::kFloat)
                                                              : alphas_cumprod_[0]) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_set_timesteps_options(config_, options);
    check_num_inference_steps(config_, num_inference_steps, trained_);
    timesteps_ = table_timesteps(config_, num_inference_steps);
    stride_ = trained_ / num_inference_steps;
  }

  const Tensor& timesteps() const override { return timesteps_; }
  void set_begin_index(int) override {}  // a step depends on its timestep alone
  double init_noise_sigma() const override { return 1; }
  Tensor do_scale_model_input(const Tensor& sample, const Tensor&) override { return sample; }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check(stride_ > 0, ErrorKind::usage, "DDIMScheduler: call set_timesteps before step");
    check(options.eta >= 0 && options.eta <= 1, ErrorKind::usage, "DDIMScheduler: eta is {}, allowed: 0 to 1",
          options.eta);
    check_step_inputs(model_output, sample);
    auto t = table_index(timestep, trained_), t_prev = t - stride_;
    auto alpha_bar = alphas_cumprod_[t];
    auto alpha_bar_prev = t_prev >= 0 ? alphas_cumprod_[t_prev] : final_alpha_cumprod_;
    auto beta_bar = 1 - alpha_bar;

    auto [x0, epsilon] = predict(model_output, sample, alpha_bar);
    x0 = limit_sample(config_, x0);

    auto variance = (1 - alpha_bar_prev) / beta_bar * (1 - alpha_bar / alpha_bar_prev);
    auto sigma = options.eta * variance.pow(0.5);
    // The difference may round to below 0 where eta is 1.
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

  std::string class_name() const override { return config_.class_name(); }
  std::string config() const override { return config_.dump(); }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<DDIMScheduler>(config_); }

 private:
  struct Prediction {
    Tensor x0, epsilon;
  };

  Prediction predict(const Tensor& output, const Tensor& sample, const Tensor& alpha_bar) const {
    auto alpha = alpha_bar.pow(0.5), sigma = (1 - alpha_bar).pow(0.5);
    switch (prediction_) {
      case PredictionType::epsilon: return {(sample - sigma * output) / alpha, output};
      case PredictionType::sample: return {output, (sample - alpha * output) / sigma};
      case PredictionType::v_prediction: break;
    }
    return {alpha * sample - sigma * output, alpha * output + sigma * sample};
  }

  SchedulerConfig config_;
  int64_t trained_, stride_ = 0;
  PredictionType prediction_;
  Tensor alphas_cumprod_, final_alpha_cumprod_;  // float32: [trained_], []
  Tensor timesteps_ = at::empty({0}, at::kLong);
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
  return {"DDIMScheduler", fields, [](SchedulerConfig config) -> std::unique_ptr<Scheduler> {
            return std::make_unique<DDIMScheduler>(std::move(config));
          }};
}

}  // namespace lora
