// Euler's method (Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn).
#include <ATen/ATen.h>

#include "schedulers/betas.h"
#include "schedulers/euler_scheduler.h"
#include "schedulers/registry.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

class EulerDiscreteScheduler final : public EulerScheduler {
 public:
  explicit EulerDiscreteScheduler(const SchedulerConfig& config)
      : EulerScheduler(config, alphas_cumprod_above_zero(config)), schedule_(sigma_schedule(config_)) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options);
    auto timesteps = spaced(num_inference_steps);
    auto sigmas = choose_sigmas(schedule_, config_, interpolate(timesteps, num_inference_steps), num_inference_steps);
    sigmas_ = close_sigmas(config_, table_, sigmas);

    bool continuous = config_.text("timestep_type") == "continuous" && prediction_ == PredictionType::v_prediction;
    if (continuous)
      steps_.start(0.25 * sigmas_.slice(0, 0, -1).log());
    else if (schedule_ == SigmaSchedule::from_timesteps)
      steps_.start(timesteps);
    else
      steps_.start(to_float32(table_.to_timesteps(sigmas)));
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions&) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    auto [x, x0, derivative] = denoise(model_output, sample, sigmas_[i]);
    auto prev_sample = x + derivative * (sigmas_[i + 1] - sigmas_[i]);
    steps_.advance();
    return {prev_sample.to(model_output.scalar_type()), x0};
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<EulerDiscreteScheduler>(config_); }

 private:
  std::vector<double> interpolate(const Tensor& timesteps, int64_t count) const {
    if (config_.text("interpolation_type") == "linear") return sigmas_at(timesteps);
    auto sigmas = at::linspace(table_.most_log(), table_.least_log(), count + 1, at::kFloat).exp();
    const auto* sigma = sigmas.const_data_ptr<float>();
    return {sigma, sigma + sigmas.numel()};
  }

  SigmaSchedule schedule_;
};

}  // namespace

SchedulerClass euler_discrete_scheduler() {
  auto fields = concat({beta_fields(0.0001, 0.02, "linear"),
                        zero_snr_fields(),
                        spacing_fields("linspace"),
                        prediction_fields({"epsilon", "sample", "original_sample", "v_prediction"}),
                        sigma_fields(),
                        final_sigma_fields(),
                        {{.name = "interpolation_type", .fallback = "linear", .supported = {"linear", "log_linear"}},
                         {.name = "sigma_min", .fallback = nullptr, .type = Json::value_t::number_float},
                         {.name = "sigma_max", .fallback = nullptr, .type = Json::value_t::number_float},
                         {.name = "timestep_type", .fallback = "discrete", .supported = {"discrete", "continuous"}}}});
  return scheduler_class<EulerDiscreteScheduler>("EulerDiscreteScheduler", fields);
}

}  // namespace lora
