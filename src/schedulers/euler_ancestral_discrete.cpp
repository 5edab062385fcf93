// Ancestral sampling with Euler steps (k-diffusion's sample_euler_ancestral; Song et al. 2021, arXiv:2011.13456): down
// past the next noise level, then up to it with fresh noise.
#include <ATen/ATen.h>

#include "nn/random.h"
#include "schedulers/betas.h"
#include "schedulers/noise.h"
#include "schedulers/prediction.h"
#include "schedulers/registry.h"
#include "schedulers/sigmas.h"
#include "schedulers/steps.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

class EulerAncestralDiscreteScheduler final : public Scheduler {
 public:
  explicit EulerAncestralDiscreteScheduler(SchedulerConfig config)
      : config_(std::move(config)),
        prediction_(prediction_type(config_)),
        table_(alphas_cumprod_above_zero(config_)),
        sigmas_(to_float32({table_.most()})) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_set_timesteps_options(config_, options);
    check_num_inference_steps(config_, num_inference_steps, config_.integer("num_train_timesteps"));
    auto timesteps = to_float32(spaced_timesteps(config_, num_inference_steps));
    const auto* t = timesteps.const_data_ptr<float>();
    auto sigmas = table_.at_timesteps({t, t + timesteps.numel()});
    sigmas.push_back(0);
    sigmas_ = to_float32(sigmas);
    steps_.start(timesteps);
  }

  const Tensor& timesteps() const override { return steps_.timesteps(); }
  void set_begin_index(int begin_index) override { steps_.begin_at(begin_index); }

  double init_noise_sigma() const override {
    auto sigma = sigmas_.max();
    if (config_.text("timestep_spacing") == "leading") sigma = (sigma.pow(2) + 1).pow(0.5);
    return sigma.item<float>();
  }

  Tensor do_scale_model_input(const Tensor& sample, const Tensor& timestep) override {
    return sample / (sigmas_[steps_.index(timestep)].pow(2) + 1).pow(0.5);
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    auto sigma = sigmas_[i], next = sigmas_[i + 1];
    auto up = (next.pow(2) * (sigma.pow(2) - next.pow(2)) / sigma.pow(2)).pow(0.5);
    auto down = (next.pow(2) - up.pow(2)).pow(0.5);

    auto x = sample.to(at::kFloat);
    auto x0 = predict(model_output, x, sigma);
    auto derivative = (x - x0) / sigma;
    auto noise =
        randn_tensor(model_output.sizes(), options.generators, model_output.scalar_type(), model_output.device());
    auto prev_sample = x + derivative * (down - sigma) + noise * up;
    steps_.advance();
    return {prev_sample.to(model_output.scalar_type()), x0};
  }

  Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const override {
    check_noise_inputs({original_samples, noise, timesteps});
    auto sigmas = sigmas_.index_select(0, steps_.indices_for_noise(timesteps));
    return original_samples + noise * per_image(sigmas, original_samples);
  }

  std::string class_name() const override { return config_.class_name(); }
  std::string config() const override { return config_.dump(); }
  std::unique_ptr<Scheduler> clone() const override {
    return std::make_unique<EulerAncestralDiscreteScheduler>(config_);
  }

 private:
  Tensor predict(const Tensor& output, const Tensor& x, const Tensor& sigma) const {
    if (prediction_ == PredictionType::epsilon) return x - sigma * output;
    auto variance = sigma.pow(2) + 1;
    return output * (-sigma / variance.pow(0.5)) + x / variance;
  }

  SchedulerConfig config_;
  PredictionType prediction_;
  SigmaTable table_;
  Tensor sigmas_;  // float32, on the CPU: the run's, and 0
  Steps steps_;
};

}  // namespace

SchedulerClass euler_ancestral_discrete_scheduler() {
  auto fields = concat({beta_fields(0.0001, 0.02, "linear"), zero_snr_fields(), spacing_fields("linspace"),
                        prediction_fields({"epsilon", "v_prediction"})});
  return {"EulerAncestralDiscreteScheduler", fields, [](SchedulerConfig config) -> std::unique_ptr<Scheduler> {
            return std::make_unique<EulerAncestralDiscreteScheduler>(std::move(config));
          }};
}

}  // namespace lora
