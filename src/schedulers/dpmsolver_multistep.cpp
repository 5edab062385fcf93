// The multistep DPM-Solver and DPM-Solver++, orders 1 to 3, ODE and SDE (Lu et al. 2022, arXiv:2206.00927 and
// arXiv:2211.01095). dpmsolver_update.h has the updates.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "nn/random.h"
#include "schedulers/betas.h"
#include "schedulers/dpmsolver_scheduler.h"
#include "schedulers/registry.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

constexpr int64_t kFewSteps = 15;  // shorter runs end with lower orders, for stability

class DPMSolverMultistepScheduler final : public DPMSolverScheduler {
 public:
  explicit DPMSolverMultistepScheduler(const SchedulerConfig& config)
      : DPMSolverScheduler(config, alphas_cumprod_above_zero(config)) {
    check(!flow_ || !config_.flag("use_lu_lambdas"), ErrorKind::unsupported,
          "DPMSolverMultistepScheduler: use_flow_sigmas does not go together with use_lu_lambdas; set one of them to "
          "false");
  }

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options);
    bool lu = schedule_ != SigmaSchedule::karras && config_.flag("use_lu_lambdas");
    auto [timesteps, sigmas] = lu ? lu_levels(num_inference_steps) : levels(num_inference_steps);
    bool rounds = lu || schedule_ == SigmaSchedule::karras;
    if (rounds && config_.text("beta_schedule") != "squaredcos_cap_v2") timesteps = rounded(timesteps);

    sigmas_ = close_sigmas(config_, table_, sigmas);
    steps_.start(to_int64(timesteps));
    outputs_.clear();
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    auto noise = method_.stochastic
                     ? randn_tensor(model_output.sizes(), options.generators, at::kFloat, model_output.device())
                     : Tensor();
    auto output = convert(model_output, sample, sigmas_[i]);
    keep(output, solver_order_);

    auto order = update_order(i);
    auto prev_sample = dpmsolver_update(
        method_,
        {sample.to(at::kFloat), {outputs_.begin(), outputs_.begin() + order}, sigmas_of_step(i, order), noise});
    steps_.advance();
    return {prev_sample.to(output.scalar_type()), {}};
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<DPMSolverMultistepScheduler>(config_); }

 private:
  std::vector<double> spaced(int64_t count) const override {
    return usable_timesteps(config_.text("timestep_spacing"), count);
  }

  // Evenly spaced in lambda = log(alpha / sigma).
  Levels lu_levels(int64_t count) const {
    auto sigmas = numpy_linspace(0, 1, count);
    for (auto& sigma : sigmas) sigma = std::exp(table_.most_log() + sigma * (table_.least_log() - table_.most_log()));
    return {table_.to_timesteps(sigmas), sigmas};
  }

  int64_t update_order(int64_t i) const {
    bool few = config_.flag("lower_order_final") && steps_.count() < kFewSteps;
    bool last_first = config_.flag("euler_at_final") || few || config_.text("final_sigmas_type") == "zero";
    auto order = static_cast<int64_t>(outputs_.size());
    if (i == steps_.count() - 1 && last_first) return 1;
    if (i == steps_.count() - 2 && few) return std::min<int64_t>(order, 2);
    return order;
  }
};

}  // namespace

SchedulerClass dpmsolver_multistep_scheduler() {
  auto fields = concat(
      {beta_fields(0.0001, 0.02, "linear"),
       zero_snr_fields(),
       spacing_fields("linspace"),
       dpmsolver_fields({"dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"}, /*lower_order_final=*/true),
       {{.name = "euler_at_final", .fallback = false}, {.name = "use_lu_lambdas", .fallback = false}}});
  return scheduler_class<DPMSolverMultistepScheduler>("DPMSolverMultistepScheduler", fields);
}

}  // namespace lora
