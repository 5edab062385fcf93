#include "schedulers/exponential_integrator.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/check.h"
#include "schedulers/noise.h"
#include "schedulers/timesteps.h"

namespace lora {

SchedulerFields flow_fields() {
  return {{.name = "use_flow_sigmas", .fallback = false},
          {.name = "flow_shift", .fallback = 1.0, .least = 1e-3, .most = 1e3},
          {.name = "use_dynamic_shifting", .fallback = false, .supported = {false}},
          {.name = "time_shift_type", .fallback = "exponential", .supported = {"exponential"}}};
}

ExponentialIntegrator::ExponentialIntegrator(SchedulerConfig config, const Tensor& alphas_cumprod,
                                             SigmaSchedule with_flow)
    : ConfiguredScheduler(std::move(config)),
      flow_(config_.flag("use_flow_sigmas")),
      prediction_(prediction_type(config_)),
      schedule_(sigma_schedule(config_)),
      table_(alphas_cumprod) {
  check(!flow_ || schedule_ == SigmaSchedule::from_timesteps || schedule_ == with_flow, ErrorKind::unsupported,
        "{}: use_flow_sigmas does not go together with another schedule of sigmas, whose levels can be above 1; set "
        "use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas to false",
        class_name());
  check(flow_ || prediction_ != PredictionType::flow_prediction, ErrorKind::unsupported,
        "{}: prediction_type \"flow_prediction\" needs the levels of flow matching; set use_flow_sigmas to true",
        class_name());
}

Tensor ExponentialIntegrator::do_add_noise(const Tensor& original_samples, const Tensor& noise,
                                           const Tensor& timesteps) const {
  check_noise_inputs({original_samples, noise, timesteps});
  auto sigmas = sigmas_.index_select(0, steps_.indices_for_noise(timesteps));
  auto [alpha, sigma] = level(per_image(sigmas, original_samples));
  return alpha * original_samples + sigma * noise;
}

ExponentialIntegrator::Levels ExponentialIntegrator::levels(int64_t count) const {
  if (schedule_ != SigmaSchedule::from_timesteps) {
    auto sigmas = choose_sigmas(schedule_, config_, {table_.most(), table_.least()}, count);
    return {table_.to_timesteps(sigmas), sigmas};
  }
  if (flow_) {
    auto sigmas = flow_sigmas(count), timesteps = sigmas;
    for (auto& timestep : timesteps) timestep *= static_cast<double>(trained_);
    return {timesteps, sigmas};
  }
  auto timesteps = spaced(count);
  return {timesteps, table_.at_timesteps(timesteps)};
}

std::vector<double> ExponentialIntegrator::spaced(int64_t count) const {
  return solver_timesteps(config_, config_.text("timestep_spacing"), count, trained_);
}

std::vector<double> ExponentialIntegrator::flow_sigmas(int64_t count) const {
  auto sigmas = numpy_linspace(1, 1 / static_cast<double>(trained_), count + 1);
  for (auto& sigma : sigmas) sigma = flow_shifted(1 - sigma);
  std::reverse(sigmas.begin(), sigmas.end());
  sigmas.pop_back();
  return sigmas;
}

double ExponentialIntegrator::flow_shifted(double sigma) const {
  auto shift = config_.number("flow_shift");
  return shift * sigma / (1 + (shift - 1) * sigma);
}

Tensor ExponentialIntegrator::to_clean(const Tensor& output, const Tensor& sample, const Tensor& level_sigma) const {
  auto [alpha, sigma] = level(level_sigma);
  auto x0 = output;
  if (prediction_ == PredictionType::epsilon) x0 = (sample - sigma * output) / alpha;
  if (prediction_ == PredictionType::v_prediction) x0 = alpha * sample - sigma * output;
  if (prediction_ == PredictionType::flow_prediction) x0 = sample - sigma * output;
  return threshold_sample(config_, x0);
}

Tensor ExponentialIntegrator::to_noise(const Tensor& output, const Tensor& sample, const Tensor& level_sigma) const {
  auto [alpha, sigma] = level(level_sigma);
  if (prediction_ == PredictionType::sample) return (sample - alpha * output) / sigma;
  if (prediction_ == PredictionType::v_prediction) return alpha * output + sigma * sample;
  return output;
}

void ExponentialIntegrator::keep(const Tensor& output, int64_t most) {
  outputs_.insert(outputs_.begin(), output);
  outputs_.resize(std::min(outputs_.size(), static_cast<size_t>(most)));
}

std::vector<Tensor> ExponentialIntegrator::sigmas_of_step(int64_t i, int64_t order) const {
  std::vector<Tensor> sigmas;
  for (int64_t k = i + 1; k >= i + 1 - order; --k) sigmas.push_back(sigmas_[k]);
  return sigmas;
}

}  // namespace lora
