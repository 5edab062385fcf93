// Euler's method (Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn).
#include <ATen/ATen.h>

#include "schedulers/betas.h"
#include "schedulers/noise.h"
#include "schedulers/prediction.h"
#include "schedulers/registry.h"
#include "schedulers/sigmas.h"
#include "schedulers/steps.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

class EulerDiscreteScheduler final : public Scheduler {
 public:
  explicit EulerDiscreteScheduler(SchedulerConfig config)
      : config_(std::move(config)),
        prediction_(prediction_type(config_)),
        schedule_(sigma_schedule(config_)),
        table_(alphas_cumprod_above_zero(config_)),
        sigmas_(to_float32({table_.most()})) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_set_timesteps_options(config_, options);
    check_num_inference_steps(config_, num_inference_steps, config_.integer("num_train_timesteps"));
    // Through float32, as numpy.linspace is asked for it here.
    auto spaced = to_float32(spaced_timesteps(config_, num_inference_steps));
    auto sigmas = choose(interpolate(spaced, num_inference_steps), num_inference_steps);
    sigmas_ = close_sigmas(config_, table_, sigmas);

    bool continuous = config_.text("timestep_type") == "continuous" && prediction_ == PredictionType::v_prediction;
    if (continuous)
      steps_.start(0.25 * sigmas_.slice(0, 0, -1).log());
    else if (schedule_ == SigmaSchedule::from_timesteps)
      steps_.start(spaced);
    else
      steps_.start(to_float32(table_.to_timesteps(sigmas)));
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
                          const SchedulerStepOptions&) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    auto sigma = sigmas_[i], dt = sigmas_[i + 1] - sigma;
    auto x = sample.to(at::kFloat);
    auto x0 = predict(model_output, x, sigma);
    auto derivative = (x - x0) / sigma;
    steps_.advance();
    return {(x + derivative * dt).to(model_output.scalar_type()), x0};
  }

  Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const override {
    check_noise_inputs({original_samples, noise, timesteps});
    auto sigmas = sigmas_.index_select(0, steps_.indices_for_noise(timesteps));
    return original_samples + noise * per_image(sigmas, original_samples);
  }

  std::string class_name() const override { return config_.class_name(); }
  std::string config() const override { return config_.dump(); }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<EulerDiscreteScheduler>(config_); }

 private:
  std::vector<double> interpolate(const Tensor& timesteps, int64_t count) const {
    if (config_.text("interpolation_type") == "linear") {
      const auto* t = timesteps.const_data_ptr<float>();
      return table_.at_timesteps({t, t + timesteps.numel()});
    }
    auto sigmas = at::linspace(table_.most_log(), table_.least_log(), count + 1, at::kFloat).exp();
    const auto* sigma = sigmas.const_data_ptr<float>();
    return {sigma, sigma + sigmas.numel()};
  }

  std::vector<double> choose(const std::vector<double>& sigmas, int64_t count) const {
    if (schedule_ == SigmaSchedule::from_timesteps) return sigmas;
    auto range = sigma_range(config_, {.most = sigmas.front(), .least = sigmas.back()});
    return schedule_ == SigmaSchedule::karras ? karras_sigmas(range, count) : exponential_sigmas(range, count);
  }

  Tensor predict(const Tensor& output, const Tensor& x, const Tensor& sigma) const {
    switch (prediction_) {
      case PredictionType::epsilon: return x - sigma * output;
      case PredictionType::sample: return output;
      case PredictionType::v_prediction: break;
    }
    auto variance = sigma.pow(2) + 1;
    return output * (-sigma / variance.pow(0.5)) + x / variance;
  }

  SchedulerConfig config_;
  PredictionType prediction_;
  SigmaSchedule schedule_;
  SigmaTable table_;
  Tensor sigmas_;  // float32, on the CPU: the run's, and the one after its last step
  Steps steps_;
};

}  // namespace

SchedulerClass euler_discrete_scheduler() {
  auto fields = concat({beta_fields(0.0001, 0.02, "linear"),
                        zero_snr_fields(),
                        spacing_fields("linspace"),
                        prediction_fields({"epsilon", "sample", "original_sample", "v_prediction"}),
                        sigma_fields(),
                        {{.name = "interpolation_type", .fallback = "linear", .supported = {"linear", "log_linear"}},
                         {.name = "sigma_min", .fallback = nullptr, .type = Json::value_t::number_float},
                         {.name = "sigma_max", .fallback = nullptr, .type = Json::value_t::number_float},
                         {.name = "timestep_type", .fallback = "discrete", .supported = {"discrete", "continuous"}}}});
  return {"EulerDiscreteScheduler", fields, [](SchedulerConfig config) -> std::unique_ptr<Scheduler> {
            return std::make_unique<EulerDiscreteScheduler>(std::move(config));
          }};
}

}  // namespace lora
