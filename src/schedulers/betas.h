#pragma once
// The noise schedule of training: betas and the products of alphas. As in the reference, float32 on the CPU.
#include "lora/tensor.h"
#include "schedulers/config.h"

namespace lora {

// num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas.
SchedulerFields beta_fields(double beta_start, double beta_end, const std::string& beta_schedule);
// The same. beta_schedule may also be "exp".
SchedulerFields beta_fields_with_exp(double beta_start, double beta_end, const std::string& beta_schedule);
// rescale_betas_zero_snr.
SchedulerFields zero_snr_fields();

// alpha_bar [num_train_timesteps], for classes with beta_fields only.
Tensor alphas_cumprod(const SchedulerConfig& config);
// The same for classes with zero_snr_fields too. The last alpha_bar may be 0.
Tensor alphas_cumprod_zero_snr(const SchedulerConfig& config);
// The same for classes that divide by alpha_bar. The last alpha_bar is 2^-24 instead of 0.
Tensor alphas_cumprod_above_zero(const SchedulerConfig& config);
// alpha_bar after the last step, a scalar: 1 if the config sets set_alpha_to_one, otherwise the first of the table.
Tensor final_alpha_cumprod(const SchedulerConfig& config, const Tensor& alphas_cumprod);

}  // namespace lora
