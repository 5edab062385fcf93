// Heun's method (Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn): an Euler step, then the same step
// with the mean of the derivatives at both of its ends. Only the step to the level 0 is an Euler step.
#include <ATen/ATen.h>

#include "schedulers/betas.h"
#include "schedulers/euler_scheduler.h"
#include "schedulers/registry.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

class HeunDiscreteScheduler final : public EulerScheduler {
 public:
  explicit HeunDiscreteScheduler(const SchedulerConfig& config)
      : EulerScheduler(config, alphas_cumprod(config)), schedule_(sigma_schedule(config_)) {}

  int order() const override { return 2; }

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options);
    auto spaced_ = spaced(num_inference_steps);
    auto sigmas = choose_sigmas(schedule_, config_, sigmas_at(spaced_), num_inference_steps);
    const auto* t = spaced_.const_data_ptr<float>();
    auto timesteps = schedule_ == SigmaSchedule::from_timesteps ? std::vector<double>(t, t + spaced_.numel())
                                                                : table_.to_timesteps(sigmas);
    sigmas = doubled_after_first(sigmas);
    sigmas.push_back(0);
    sigmas_ = to_float32(sigmas);
    steps_.start(to_float32(doubled_after_first(timesteps)));
    start_sample_.reset();
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions&) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    bool first = !start_sample_.defined();
    auto x0 = predict_clean(model_output, sample, sigmas_[i]);
    if (config_.flag("clip_sample")) {
      auto range = config_.number("clip_sample_range");
      x0 = at::clamp(x0, -range, range);
    }
    auto derivative = (sample - x0) / sigmas_[i];
    Tensor prev_sample;
    if (first) {
      length_ = sigmas_[i + 1] - sigmas_[i];
      prev_sample = sample + derivative * length_;
      start_sample_ = sample;
      start_derivative_ = derivative;
    } else {
      prev_sample = start_sample_ + (start_derivative_ + derivative) / 2 * length_;
      start_sample_.reset();
    }
    steps_.advance();
    return {prev_sample, x0};
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<HeunDiscreteScheduler>(config_); }

 private:
  SigmaSchedule schedule_;
  Tensor start_sample_, start_derivative_, length_;  // of the step in progress, between its two calls
};

}  // namespace

SchedulerClass heun_discrete_scheduler() {
  auto fields = concat({beta_fields_with_exp(0.00085, 0.012, "linear"), spacing_fields("linspace"),
                        prediction_fields({"epsilon", "sample", "v_prediction"}), sigma_fields(), clip_fields(false)});
  return scheduler_class<HeunDiscreteScheduler>("HeunDiscreteScheduler", fields);
}

}  // namespace lora
