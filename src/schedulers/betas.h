#pragma once
// The noise schedule of training: betas and the products of alphas, float32 on the CPU as in the reference.
#include "lora/tensor.h"
#include "schedulers/config.h"

namespace lora {

// num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas.
SchedulerFields beta_fields(double beta_start, double beta_end, const std::string& beta_schedule);
// rescale_betas_zero_snr.
SchedulerFields zero_snr_fields();

// alpha_bar: [num_train_timesteps], where a class has beta_fields alone.
Tensor alphas_cumprod(const SchedulerConfig& config);
// The same, where a class has zero_snr_fields as well: the last one may be 0.
Tensor alphas_cumprod_zero_snr(const SchedulerConfig& config);
// The same for classes that divide by it: 2^-24 in place of the 0.
Tensor alphas_cumprod_above_zero(const SchedulerConfig& config);

}  // namespace lora
