#pragma once
// The base of the DPM-Solver schedulers: their config, and what their updates take.
#include "schedulers/exponential_integrator.h"

namespace lora {

// The fields that both classes have. `algorithms` are those of the class.
SchedulerFields dpmsolver_fields(const std::vector<std::string>& algorithms, bool lower_order_final);

class DPMSolverScheduler : public ExponentialIntegrator {
 protected:
  DPMSolverScheduler(SchedulerConfig config, const Tensor& alphas_cumprod);

  // Converts a model output to what the method integrates: the clean sample or the noise.
  Tensor convert(const Tensor& output, const Tensor& sample, const Tensor& sigma) const;
  // The timesteps of solver_timesteps() out of those whose log-SNR is above the config's lambda_min_clipped.
  std::vector<double> usable_timesteps(const std::string& spacing, int64_t count) const;

  int64_t solver_order_, usable_;
  DPMSolverMethod method_;
};

}  // namespace lora
