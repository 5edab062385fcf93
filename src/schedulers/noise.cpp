#include "schedulers/noise.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

void check_noise_inputs(const NoiseInputs& inputs) {
  const auto& [samples, noise, timesteps] = inputs;
  check(samples.dim() > 0 && samples.sizes() == noise.sizes(), ErrorKind::bad_shape,
        "add_noise: original_samples is {} and noise is {}; their shapes must be equal", c10::str(samples.sizes()),
        c10::str(noise.sizes()));
  check(timesteps.numel() == 1 || timesteps.numel() == samples.size(0), ErrorKind::bad_shape,
        "add_noise: there are {} timesteps for {} samples; give one, or one for each sample", timesteps.numel(),
        samples.size(0));
}

Tensor per_image(const Tensor& values, const Tensor& samples) {
  std::vector<int64_t> shape(static_cast<size_t>(samples.dim()), 1);
  shape[0] = values.numel();
  return values.to(samples.options()).reshape(shape);
}

Tensor add_noise_by_alphas(const Tensor& alphas_cumprod, const NoiseInputs& inputs) {
  check_noise_inputs(inputs);
  const auto& [samples, noise, timesteps] = inputs;
  auto indices = timesteps.flatten().to(at::kCPU, at::kLong);
  auto low = indices.min().item<int64_t>(), high = indices.max().item<int64_t>();
  check(low >= 0 && high < alphas_cumprod.numel(), ErrorKind::usage,
        "add_noise: the timesteps are from {} to {}; they must be from 0 to {}", low, high, alphas_cumprod.numel() - 1);
  auto alpha_bar = per_image(alphas_cumprod.index_select(0, indices), samples);
  return alpha_bar.pow(0.5) * samples + (1 - alpha_bar).pow(0.5) * noise;
}

}  // namespace lora
