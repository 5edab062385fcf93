#pragma once
// The scheduler classes. Each class is one file, with one function that describes the class to from_config().
#include <memory>
#include <optional>
#include <string>

#include "lora/scheduler.h"
#include "schedulers/config.h"

namespace lora {

struct SchedulerClass {
  std::string name;
  SchedulerFields fields;
  std::unique_ptr<Scheduler> (*create)(SchedulerConfig);
};

template <class T>
SchedulerClass scheduler_class(std::string name, SchedulerFields fields) {
  return {std::move(name), std::move(fields),
          [](SchedulerConfig config) -> std::unique_ptr<Scheduler> { return std::make_unique<T>(std::move(config)); }};
}

// What the denoiser predicts for a scheduler.
enum class Predicts { noise, flow, tokens };
// `name` is a class or a short name. Nothing for a name that is neither.
std::optional<Predicts> predicted_for(const std::string& name);
// The same for a scheduler with its config.
Predicts predicted_for(const Scheduler& scheduler);

// Whether the steps of a scheduler use SchedulerStepOptions::eta.
bool takes_eta(const Scheduler& scheduler);

// Whether a class has a field in its config. False for a class that is not one of these.
bool has_field(std::string_view class_name, std::string_view field);

SchedulerClass amused_scheduler();
SchedulerClass ddim_scheduler();
SchedulerClass deis_multistep_scheduler();
SchedulerClass dpmsolver_multistep_scheduler();
SchedulerClass dpmsolver_sde_scheduler();
SchedulerClass dpmsolver_singlestep_scheduler();
SchedulerClass euler_ancestral_discrete_scheduler();
SchedulerClass euler_discrete_scheduler();
SchedulerClass flow_match_euler_discrete_scheduler();
SchedulerClass heun_discrete_scheduler();
SchedulerClass lcm_scheduler();
SchedulerClass pndm_scheduler();
SchedulerClass tcd_scheduler();
SchedulerClass unipc_multistep_scheduler();

}  // namespace lora
