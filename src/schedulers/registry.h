#pragma once
// The scheduler classes: one function a file, each giving what from_config needs to make one.
#include <memory>
#include <string>

#include "lora/scheduler.h"
#include "schedulers/config.h"

namespace lora {

struct SchedulerClass {
  std::string name;
  SchedulerFields fields;
  std::unique_ptr<Scheduler> (*create)(SchedulerConfig);
};

SchedulerClass amused_scheduler();
SchedulerClass ddim_scheduler();
SchedulerClass dpmsolver_multistep_scheduler();
SchedulerClass euler_ancestral_discrete_scheduler();
SchedulerClass euler_discrete_scheduler();
SchedulerClass flow_match_euler_discrete_scheduler();
SchedulerClass lcm_scheduler();
SchedulerClass pndm_scheduler();

}  // namespace lora
