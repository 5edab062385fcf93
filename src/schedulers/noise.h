#pragma once
// Adds noise to clean samples up to given levels, for image-to-image.
#include "lora/tensor.h"

namespace lora {

struct NoiseInputs {
  Tensor original_samples;  // [N, …]
  Tensor noise;             // [N, …]
  Tensor timesteps;         // [N] or [1]
};

// Throws Error{bad_shape} if the shapes do not fit together.
void check_noise_inputs(const NoiseInputs& inputs);

// sqrt(alpha_bar) · original + sqrt(1 - alpha_bar) · noise, in the dtype of the samples. Throws
// Error{usage} for timesteps outside the table.
Tensor add_noise_by_alphas(const Tensor& alphas_cumprod, const NoiseInputs& inputs);

// One value for each image: reshaped so that it multiplies `samples`, in their dtype and on their device.
Tensor per_image(const Tensor& values, const Tensor& samples);

}  // namespace lora
