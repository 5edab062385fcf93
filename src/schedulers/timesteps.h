#pragma once
// Which training timesteps a run visits ("timestep_spacing"), in numpy's float64 arithmetic so that they are the
// reference's to the last bit.
#include <set>
#include <string>
#include <vector>

#include "lora/scheduler.h"
#include "schedulers/config.h"

namespace lora {

// timestep_spacing, steps_offset.
SchedulerFields spacing_fields(const std::string& timestep_spacing);

// numpy.linspace, numpy.arange.
std::vector<double> numpy_linspace(double start, double stop, int64_t count);
std::vector<double> numpy_arange(double start, double stop, double step);
// numpy.round of each.
std::vector<double> rounded(std::vector<double> values);

// Throws Error{usage} naming an option that was given and is none of `taken`.
void check_set_timesteps_options(const SchedulerConfig& config, const SetTimestepsOptions& options,
                                 const std::set<std::string>& taken = {});

// Throws Error{usage} where `steps` is not in 1 … most.
void check_num_inference_steps(const SchedulerConfig& config, int64_t steps, int64_t most);

// Highest first; whole numbers but for "linspace". "trailing" gives one entry more, -1, for the few step counts whose
// ratio to num_train_timesteps rounds badly (61, 103, …).
std::vector<double> spaced_timesteps(const SchedulerConfig& config, int64_t steps);
// The same as int64 for classes that look the timesteps up in a table: rounded, and without that entry. Throws
// Error{usage} where steps_offset pushes the first one past the table.
Tensor table_timesteps(const SchedulerConfig& config, int64_t steps);

Tensor to_int64(const std::vector<double>& values);
Tensor to_float32(const std::vector<double>& values);

}  // namespace lora
