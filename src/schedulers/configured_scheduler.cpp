#include "schedulers/configured_scheduler.h"

#include "core/check.h"
#include "schedulers/timesteps.h"

namespace lora {

ConfiguredScheduler::ConfiguredScheduler(SchedulerConfig config, bool has_training)
    : config_(std::move(config)), trained_(has_training ? config_.integer("num_train_timesteps") : 0) {}

std::optional<int64_t> ConfiguredScheduler::num_train_timesteps() const {
  return trained_ > 0 ? std::optional(trained_) : std::nullopt;
}

Tensor ConfiguredScheduler::do_scale_model_input(const Tensor& sample, const Tensor&) { return sample; }

void ConfiguredScheduler::check_run(int64_t steps, int64_t most, const SetTimestepsOptions& options,
                                    const std::set<std::string>& taken) const {
  const std::pair<const char*, bool> rows[] = {{"mu", options.mu.has_value()},
                                               {"sigmas", !options.sigmas.empty()},
                                               {"temperature", options.temperature.has_value()}};
  for (const auto& [name, given] : rows)
    check(!given || taken.contains(name), ErrorKind::usage, "{}: set_timesteps does not take the option {}",
          config_.class_name(), name);
  check_num_inference_steps(config_, steps, most);
}

}  // namespace lora
