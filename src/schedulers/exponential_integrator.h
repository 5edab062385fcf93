#pragma once
// The base of the schedulers that solve the linear part of the diffusion ODE exactly: DPM-Solver, DEIS and UniPC. A
// sample at a noise level is alpha · clean + sigma · noise. Flow matching has alpha = 1 - sigma.
#include <vector>

#include "schedulers/configured_scheduler.h"
#include "schedulers/dpmsolver_update.h"
#include "schedulers/prediction.h"
#include "schedulers/sigmas.h"

namespace lora {

// use_flow_sigmas, flow_shift, use_dynamic_shifting, time_shift_type.
SchedulerFields flow_fields();

class ExponentialIntegrator : public ConfiguredScheduler {
 protected:
  // `with_flow` is the schedule that the class combines with use_flow_sigmas. Throws Error{unsupported} if the config
  // combines use_flow_sigmas with another schedule, or asks for flow_prediction without it.
  ExponentialIntegrator(SchedulerConfig config, const Tensor& alphas_cumprod,
                        SigmaSchedule with_flow = SigmaSchedule::from_timesteps);

  Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const override;

  // The noise levels of a run, highest first, and their timesteps.
  struct Levels {
    std::vector<double> timesteps, sigmas;
  };
  // Those that the config chooses.
  Levels levels(int64_t count) const;
  // The timesteps of a run whose levels follow from them.
  virtual std::vector<double> spaced(int64_t count) const;
  // The levels of flow matching, shifted by flow_shift.
  virtual std::vector<double> flow_sigmas(int64_t count) const;
  double flow_shifted(double sigma) const;

  // The alpha and sigma of an entry of sigmas_, after its division by alpha.
  DPMSolverLevel level(const Tensor& sigma) const { return dpmsolver_level(sigma, flow_); }
  // What a model output says of the clean sample, with the config's thresholding, and of the noise.
  Tensor to_clean(const Tensor& output, const Tensor& sample, const Tensor& sigma) const;
  Tensor to_noise(const Tensor& output, const Tensor& sample, const Tensor& sigma) const;

  // Keeps a converted output as the newest. At most `most` are kept.
  void keep(const Tensor& output, int64_t most);
  // The level after step i, then those of the last `order` outputs.
  std::vector<Tensor> sigmas_of_step(int64_t i, int64_t order) const;

  bool flow_;  // use_flow_sigmas
  PredictionType prediction_;
  SigmaSchedule schedule_;
  SigmaTable table_;
  Tensor sigmas_;                // float32, on the CPU: the levels of the run, and the level after its last step
  std::vector<Tensor> outputs_;  // converted, newest first
};

}  // namespace lora
