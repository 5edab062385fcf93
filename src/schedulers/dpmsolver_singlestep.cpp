// The singlestep DPM-Solver and DPM-Solver++, orders 1 to 3, ODE and SDE (Lu et al. 2022, arXiv:2206.00927 and
// arXiv:2211.01095). An update of order n goes from the start of a block of n steps to the end of its last step.
#include <ATen/ATen.h>

#include "nn/random.h"
#include "schedulers/betas.h"
#include "schedulers/dpmsolver_scheduler.h"
#include "schedulers/registry.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

class DPMSolverSinglestepScheduler final : public DPMSolverScheduler {
 public:
  explicit DPMSolverSinglestepScheduler(const SchedulerConfig& config)
      : DPMSolverScheduler(config, alphas_cumprod(config)) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options);
    auto [timesteps, sigmas] = levels(num_inference_steps);
    if (schedule_ == SigmaSchedule::karras) timesteps = rounded(timesteps);
    sigmas_ = close_sigmas(config_, table_, sigmas);
    steps_.start(to_int64(timesteps));
    outputs_.clear();
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    auto output = convert(model_output, sample, sigmas_[i]);
    auto noise = method_.stochastic
                     ? randn_tensor(output.sizes(), options.generators, output.scalar_type(), output.device())
                     : Tensor();
    keep(output, solver_order_);

    auto order = std::min(update_order(i), static_cast<int64_t>(outputs_.size()));
    if (order == 1) start_sample_ = sample;
    auto prev_sample = dpmsolver_singlestep_update(
        method_, {start_sample_, {outputs_.begin(), outputs_.begin() + order}, sigmas_of_step(i, order), noise});
    steps_.advance();
    return {prev_sample, {}};
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<DPMSolverSinglestepScheduler>(config_); }

 private:
  std::vector<double> spaced(int64_t count) const override { return usable_timesteps("linspace", count); }

  // The position of step i in its block. The last block can be shorter. If it is whole, it ends with lower orders where
  // the config or a last level of 0 asks for them.
  int64_t update_order(int64_t i) const {
    auto count = steps_.count();
    bool zero = config_.text("final_sigmas_type") == "zero";
    bool lower = zero || config_.flag("lower_order_final") || count % solver_order_ != 0;
    if (i == count - 1 && (zero || (lower && count % solver_order_ == 0))) return 1;
    return i % solver_order_ + 1;
  }

  Tensor start_sample_;  // of the block
};

}  // namespace

SchedulerClass dpmsolver_singlestep_scheduler() {
  auto fields =
      concat({beta_fields(0.0001, 0.02, "linear"),
              dpmsolver_fields({"dpmsolver", "dpmsolver++", "sde-dpmsolver++"}, /*lower_order_final=*/false)});
  return scheduler_class<DPMSolverSinglestepScheduler>("DPMSolverSinglestepScheduler", fields);
}

}  // namespace lora
