#include "schedulers/euler_scheduler.h"

#include <ATen/ATen.h>

#include "schedulers/noise.h"
#include "schedulers/timesteps.h"

namespace lora {

EulerScheduler::EulerScheduler(SchedulerConfig config, const Tensor& alphas_cumprod)
    : ConfiguredScheduler(std::move(config)),
      prediction_(prediction_type(config_)),
      table_(alphas_cumprod),
      sigmas_(to_float32({table_.most()})) {}

double EulerScheduler::init_noise_sigma() const {
  auto sigma = sigmas_.max();
  if (config_.text("timestep_spacing") == "leading") sigma = (sigma.pow(2) + 1).pow(0.5);
  return sigma.item<float>();
}

Tensor EulerScheduler::do_scale_model_input(const Tensor& sample, const Tensor& timestep) {
  return sample / (sigmas_[steps_.index(timestep)].pow(2) + 1).pow(0.5);
}

Tensor EulerScheduler::do_add_noise(const Tensor& original_samples, const Tensor& noise,
                                    const Tensor& timesteps) const {
  check_noise_inputs({original_samples, noise, timesteps});
  auto sigmas = sigmas_.index_select(0, steps_.indices_for_noise(timesteps));
  return original_samples + noise * per_image(sigmas, original_samples);
}

Tensor EulerScheduler::spaced(int64_t count) const { return to_float32(spaced_timesteps(config_, count)); }

std::vector<double> EulerScheduler::sigmas_at(const Tensor& timesteps) const {
  const auto* t = timesteps.const_data_ptr<float>();
  return table_.at_timesteps({t, t + timesteps.numel()});
}

Tensor EulerScheduler::predict_clean(const Tensor& model_output, const Tensor& sample, const Tensor& sigma) const {
  if (prediction_ == PredictionType::epsilon) return sample - sigma * model_output;
  if (prediction_ == PredictionType::sample) return model_output;
  auto variance = sigma.pow(2) + 1;
  return model_output * (-sigma / variance.pow(0.5)) + sample / variance;
}

EulerScheduler::Denoised EulerScheduler::denoise(const Tensor& model_output, const Tensor& sample,
                                                 const Tensor& sigma) const {
  auto x = sample.to(at::kFloat);
  auto x0 = predict_clean(model_output, x, sigma);
  return {x, x0, (x - x0) / sigma};
}

}  // namespace lora
