#pragma once
// The base of all scheduler classes: the config, the timesteps of the run, and the checks that begin a run.
#include <set>

#include "lora/scheduler.h"
#include "schedulers/config.h"
#include "schedulers/steps.h"

namespace lora {

inline constexpr bool kNoTraining = false;

// The defaults are those of most classes: the noise has a standard deviation of 1, and model inputs are not scaled.
class ConfiguredScheduler : public Scheduler {
 public:
  const Tensor& timesteps() const override { return steps_.timesteps(); }
  void set_begin_index(int begin_index) override { steps_.begin_at(begin_index); }
  double init_noise_sigma() const override { return 1; }

  std::string class_name() const override { return config_.class_name(); }
  std::string config() const override { return config_.dump(); }
  std::optional<int64_t> num_train_timesteps() const override;

 protected:
  explicit ConfiguredScheduler(SchedulerConfig config, bool has_training = true);

  Tensor do_scale_model_input(const Tensor& sample, const Tensor& timestep) override;

  // Throws Error{usage} unless `steps` is in 1 … most and each given option is one of `taken`.
  void check_run(int64_t steps, int64_t most, const SetTimestepsOptions& options,
                 const std::set<std::string>& taken = {}) const;

  SchedulerConfig config_;
  int64_t trained_;  // num_train_timesteps; 0 without this field (has_training)
  Steps steps_;
};

}  // namespace lora
