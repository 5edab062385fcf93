#pragma once
// Noise levels: sigma = sqrt((1 - alpha_bar) / alpha_bar), their timesteps, and the schedules that choose them
// directly.
#include <vector>

#include "lora/tensor.h"
#include "schedulers/config.h"

namespace lora {

// use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, final_sigmas_type.
SchedulerFields sigma_fields();

enum class SigmaSchedule { from_timesteps, karras, exponential };

// Throws Error{unsupported} where the config asks for two of them.
SigmaSchedule sigma_schedule(const SchedulerConfig& config);

// The sigmas of the training timesteps, and what converts between the two as numpy does: float32 tables, float64
// values.
class SigmaTable {
 public:
  explicit SigmaTable(const Tensor& alphas_cumprod);

  double least() const { return sigmas_.front(); }
  double most() const { return sigmas_.back(); }
  double least_log() const { return log_sigmas_.front(); }
  double most_log() const { return log_sigmas_.back(); }
  double at_timestep(double timestep) const;  // linear between entries, constant beyond the ends
  double to_timestep(double sigma) const;     // linear in the logarithm
  std::vector<double> at_timesteps(const std::vector<double>& timesteps) const;
  std::vector<double> to_timesteps(const std::vector<double>& sigmas) const;

 private:
  std::vector<float> sigmas_, log_sigmas_;
};

struct SigmaRange {
  double most, least;
};

// The config's sigma_max and sigma_min where it has them, else those of `range`.
SigmaRange sigma_range(const SchedulerConfig& config, SigmaRange range);

// Karras et al. 2022 (arXiv:2206.00364), equation 5, with rho 7; and evenly in the logarithm. Highest first.
std::vector<double> karras_sigmas(SigmaRange range, int64_t count);
std::vector<double> exponential_sigmas(SigmaRange range, int64_t count);

// `sigmas` and the one after the last step (final_sigmas_type: 0 or the least of the table), float32 on the CPU.
Tensor close_sigmas(const SchedulerConfig& config, const SigmaTable& table, std::vector<double> sigmas);

// log(x) in float32 as numpy computes it on x86 CPUs with FMA: up to 2 ulp off, but it decides to which timestep a
// sigma belongs, so nothing nearer the truth will do. For normal positive x.
float numpy_log(float x);

}  // namespace lora
