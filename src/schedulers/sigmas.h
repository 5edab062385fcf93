#pragma once
// Noise levels sigma = sqrt((1 - alpha_bar) / alpha_bar), their timesteps, and the schedules that choose them directly.
#include <string>
#include <vector>

#include "core/check.h"
#include "lora/tensor.h"
#include "schedulers/config.h"

namespace lora {

// use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas.
SchedulerFields sigma_fields();
// final_sigmas_type.
SchedulerFields final_sigma_fields();

enum class SigmaSchedule { from_timesteps, karras, exponential, beta };

// Throws Error{unsupported} if the config sets more than one schedule.
SigmaSchedule sigma_schedule(const SchedulerConfig& config);

// The sigmas of the training timesteps. Converts between timesteps and sigmas as numpy does, with float32 tables and
// float64 values.
class SigmaTable {
 public:
  explicit SigmaTable(const Tensor& alphas_cumprod);

  double least() const { return sigmas_.front(); }
  double most() const { return sigmas_.back(); }
  double least_log() const { return log_sigmas_.front(); }
  double most_log() const { return log_sigmas_.back(); }
  double at_timestep(double timestep) const;  // linear between entries, constant outside the table
  double to_timestep(double sigma) const;     // linear in the logarithm
  std::vector<double> at_timesteps(const std::vector<double>& timesteps) const;
  std::vector<double> to_timesteps(const std::vector<double>& sigmas) const;

 private:
  std::vector<float> sigmas_, log_sigmas_;
};

// The levels of a schedule, highest first: `count` levels over the config's range, or else over the range of `sigmas`.
// from_timesteps gives `sigmas` themselves.
std::vector<double> choose_sigmas(SigmaSchedule schedule, const SchedulerConfig& config,
                                  const std::vector<double>& sigmas, int64_t count);

// `sigmas` and the level after the last step, float32 on the CPU. final_sigmas_type selects that level: 0, or the least
// of the table.
Tensor close_sigmas(const SchedulerConfig& config, const SigmaTable& table, std::vector<double> sigmas);

// Stretches levels of flow matching so that the last one is `terminal`. Throws Error{usage} if it is 1.
template <class T>
void stretch_to_terminal(std::vector<T>& sigmas, double terminal, const std::string& class_name) {
  check(sigmas.back() < 1, ErrorKind::usage,
        "{}: shift_terminal needs a run whose last sigma is below 1; use more steps", class_name);
  auto scale = (1 - sigmas.back()) / static_cast<T>(1 - terminal);
  for (auto& sigma : sigmas) sigma = 1 - (1 - sigma) / scale;
}

// log(x) in float32 exactly as numpy computes it on x86 CPUs with FMA, for normal positive x. The result may be off by
// 2 ulp. A more accurate logarithm would assign some sigmas to other timesteps than the reference.
float numpy_log(float x);

}  // namespace lora
