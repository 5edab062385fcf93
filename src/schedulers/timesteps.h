#pragma once
// The training timesteps of a run ("timestep_spacing"). The arithmetic is numpy's, in float64, so that the timesteps
// equal the reference's to the last bit.
#include <string>
#include <vector>

#include "lora/tensor.h"
#include "schedulers/config.h"

namespace lora {

// timestep_spacing, steps_offset.
SchedulerFields spacing_fields(const std::string& timestep_spacing);

// numpy.linspace, numpy.arange.
std::vector<double> numpy_linspace(double start, double stop, int64_t count);
std::vector<double> numpy_arange(double start, double stop, double step);
// numpy.round of each value.
std::vector<double> rounded(std::vector<double> values);

// Throws Error{usage} unless `steps` is in 1 … most.
void check_num_inference_steps(const SchedulerConfig& config, int64_t steps, int64_t most);

// The timesteps, highest first. They are whole numbers, except for "linspace". For a few numbers of steps (61, 103, …),
// rounding makes "trailing" return one more entry, -1.
std::vector<double> spaced_timesteps(const SchedulerConfig& config, int64_t steps);
// The same, rounded to int64 and without the entry -1, for classes that look timesteps up in a table. Throws
// Error{usage} if steps_offset moves the first timestep past the end of the table.
Tensor table_timesteps(const SchedulerConfig& config, int64_t steps);

// The timesteps of the multistep solvers, highest first: `steps` out of the lowest `usable` training timesteps. Their
// spacing leaves the last timestep to the end of the run. Throws Error{usage} for more steps than there are timesteps.
std::vector<double> solver_timesteps(const SchedulerConfig& config, const std::string& spacing, int64_t steps,
                                     int64_t usable);

// original_inference_steps, for models that were distilled on so many timesteps. Throws Error{unsupported} if there are
// more of them than training timesteps.
int64_t original_inference_steps(const SchedulerConfig& config);
// `steps` evenly spaced timesteps out of those, int64, highest first.
Tensor distilled_timesteps(const SchedulerConfig& config, int64_t steps);

// {a, b, c, …} gives {a, b, b, c, c, …}: each step of a second-order scheduler ends where the next one starts.
std::vector<double> doubled_after_first(const std::vector<double>& values);

Tensor to_int64(const std::vector<double>& values);
Tensor to_float32(const std::vector<double>& values);

}  // namespace lora
