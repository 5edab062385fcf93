// DPM-Solver++ for the SDE with a midpoint (k-diffusion's sample_dpmpp_sde; Lu et al. 2022, arXiv:2211.01095). The
// noise of a step and that of its first half belong to one path of Brownian motion over the noise levels.
#include <ATen/ATen.h>

#include <cmath>

#include "core/check.h"
#include "nn/random.h"
#include "schedulers/betas.h"
#include "schedulers/euler_scheduler.h"
#include "schedulers/registry.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

// The timesteps of the levels between `sigmas`, halfway in the logarithm.
std::vector<double> middle_timesteps(const SigmaTable& table, const std::vector<double>& sigmas) {
  std::vector<double> timesteps;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    auto t = -std::log(sigmas[i]), next = -std::log(sigmas[i + 1]);
    timesteps.push_back(table.to_timestep(std::exp(-(t + (next - t) * 0.5))));
  }
  return timesteps;
}

class DPMSolverSDEScheduler final : public EulerScheduler {
 public:
  explicit DPMSolverSDEScheduler(const SchedulerConfig& config)
      : EulerScheduler(config, alphas_cumprod(config)), schedule_(sigma_schedule(config_)) {
    check(!config_.maybe_number("noise_sampler_seed"), ErrorKind::unsupported,
          "DPMSolverSDEScheduler: noise_sampler_seed is not supported, because the noise comes from the generators of "
          "the call; set it to null");
  }

  int order() const override { return 2; }

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options);
    auto timesteps = spaced_timesteps(config_, num_inference_steps);
    auto sigmas = choose_sigmas(schedule_, config_, table_.at_timesteps(timesteps), num_inference_steps);
    if (schedule_ != SigmaSchedule::from_timesteps) timesteps = table_.to_timesteps(sigmas);
    auto middle = middle_timesteps(table_, sigmas);
    timesteps = doubled_after_first(timesteps);
    for (size_t i = 0; i < middle.size(); ++i) timesteps[2 * i + 1] = middle[i];

    sigmas = doubled_after_first(sigmas);
    sigmas.push_back(0);
    sigmas_ = to_float32(sigmas);
    steps_.start(at::tensor(timesteps, at::kDouble));
    start_sample_.reset();
  }

  Tensor do_scale_model_input(const Tensor& sample, const Tensor& timestep) override {
    auto i = steps_.index(timestep);
    auto sigma = start_sample_.defined() ? middle_ : sigmas_[i];
    return sample / (sigma.pow(2) + 1).pow(0.5);
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    bool first = !start_sample_.defined();
    auto sigma = sigmas_[first ? i : i - 1], next = sigmas_[first ? i + 1 : i];
    auto t = -sigma.log(), t_next = -next.log();
    auto t_middle = t + (t_next - t) * 0.5;
    auto x0 = predict_clean(model_output, sample, first ? sigma : at::exp(-t_middle));
    if (next.item<float>() == 0) {
      steps_.advance();
      return {sample + (sample - x0) / sigma * (next - sigma), x0};
    }

    auto draw = randn_tensor(sample.sizes(), options.generators, sample.scalar_type(), sample.device());
    auto prev_sample = ancestral_step(first ? sample : start_sample_, x0, {t, first ? t_middle : t_next}, draw);
    if (first) {
      start_sample_ = sample;
      middle_ = at::exp(-t_middle);
    } else {
      start_sample_.reset();
    }
    steps_.advance();
    return {prev_sample, x0};
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<DPMSolverSDEScheduler>(config_); }

 private:
  struct Interval {
    Tensor t, t_next;  // -log(sigma)
  };

  // Goes below the next level, and adds noise up to that level.
  Tensor ancestral_step(const Tensor& x, const Tensor& x0, const Interval& v, const Tensor& draw) {
    auto from = at::exp(-v.t), to = at::exp(-v.t_next);
    auto up = at::minimum(to, (to.pow(2) * (from.pow(2) - to.pow(2)) / from.pow(2)).pow(0.5));
    auto t_down = -(to.pow(2) - up.pow(2)).pow(0.5).log();
    auto moved = at::exp(-t_down) / at::exp(-v.t) * x - at::expm1(v.t - t_down) * x0;
    return moved + noise(from, to, draw) * up;
  }

  // Unit noise of the path from `from` to `to`, which goes on from the middle in the second call of a step.
  Tensor noise(const Tensor& from, const Tensor& to, const Tensor& draw) {
    path_ = start_sample_.defined() ? path_ + draw * (middle_ - to).sqrt() : draw * (from - to).sqrt();
    return path_ / (from - to).sqrt();
  }

  SigmaSchedule schedule_;
  Tensor start_sample_, middle_, path_;  // of the step in progress: its sample, its middle level, the path up to there
};

}  // namespace

SchedulerClass dpmsolver_sde_scheduler() {
  auto fields = concat({beta_fields(0.00085, 0.012, "linear"),
                        spacing_fields("linspace"),
                        prediction_fields({"epsilon", "v_prediction"}),
                        sigma_fields(),
                        {{.name = "noise_sampler_seed", .fallback = nullptr, .type = Json::value_t::number_integer}}});
  return scheduler_class<DPMSolverSDEScheduler>("DPMSolverSDEScheduler", fields);
}

}  // namespace lora
