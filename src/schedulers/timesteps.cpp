#include "schedulers/timesteps.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace lora {

SchedulerFields spacing_fields(const std::string& timestep_spacing) {
  return {{.name = "timestep_spacing", .fallback = timestep_spacing, .supported = {"linspace", "leading", "trailing"}},
          {.name = "steps_offset", .fallback = 0, .least = 0, .most = 1e5}};
}

std::vector<double> numpy_linspace(double start, double stop, int64_t count) {
  std::vector<double> values(static_cast<size_t>(count), start);
  double step = (stop - start) / static_cast<double>(count - 1);
  for (size_t i = 1; i < values.size(); ++i) values[i] = static_cast<double>(i) * step + start;
  if (count > 1) values.back() = stop;
  return values;
}

std::vector<double> numpy_arange(double start, double stop, double step) {
  auto count = std::max(0.0, std::ceil((stop - start) / step));
  std::vector<double> values(static_cast<size_t>(count));
  double delta = (start + step) - start;  // rounding can make it differ from `step`
  for (size_t i = 0; i < values.size(); ++i) values[i] = start + static_cast<double>(i) * delta;
  return values;
}

std::vector<double> rounded(std::vector<double> values) {
  for (auto& value : values) value = std::nearbyint(value);
  return values;
}

void check_num_inference_steps(const SchedulerConfig& config, int64_t steps, int64_t most) {
  check(steps >= 1 && steps <= most, ErrorKind::usage, "{}: num_inference_steps is {}; it must be from 1 to {}",
        config.class_name(), steps, most);
}

std::vector<double> spaced_timesteps(const SchedulerConfig& config, int64_t steps) {
  auto trained = config.integer("num_train_timesteps");
  auto spacing = config.text("timestep_spacing");
  std::vector<double> timesteps;
  if (spacing == "linspace") {
    timesteps = numpy_linspace(0, static_cast<double>(trained - 1), steps);
    std::reverse(timesteps.begin(), timesteps.end());
  } else if (spacing == "leading") {
    auto offset = config.integer("steps_offset"), ratio = trained / steps;
    for (auto i = steps - 1; i >= 0; --i) timesteps.push_back(static_cast<double>(i * ratio + offset));
  } else {
    auto ratio = static_cast<double>(trained) / static_cast<double>(steps);
    timesteps = rounded(numpy_arange(static_cast<double>(trained), 0, -ratio));
    for (auto& timestep : timesteps) timestep -= 1;
  }
  return timesteps;
}

Tensor table_timesteps(const SchedulerConfig& config, int64_t steps) {
  auto timesteps = rounded(spaced_timesteps(config, steps));
  if (timesteps.back() < 0) timesteps.pop_back();
  auto trained = config.integer("num_train_timesteps");
  check(timesteps.front() < static_cast<double>(trained), ErrorKind::usage,
        "{}: {} steps with steps_offset {} begin at timestep {}, but the last training timestep is {}; use fewer steps",
        config.class_name(), steps, config.integer("steps_offset"), timesteps.front(), trained - 1);
  return to_int64(timesteps);
}

std::vector<double> solver_timesteps(const SchedulerConfig& config, const std::string& spacing, int64_t steps,
                                     int64_t usable) {
  if (spacing == "trailing") {
    auto ratio = static_cast<double>(config.integer("num_train_timesteps")) / static_cast<double>(steps);
    auto timesteps = rounded(numpy_arange(static_cast<double>(usable), 0, -ratio));
    for (auto& timestep : timesteps) timestep -= 1;
    return timesteps;
  }
  check_num_inference_steps(config, steps, usable - 1);
  auto last = static_cast<double>(usable - 1);
  auto ratio = static_cast<double>(usable / (steps + 1));
  auto timesteps = spacing == "linspace" ? rounded(numpy_linspace(0, last, steps + 1))
                                         : numpy_linspace(0, ratio * static_cast<double>(steps), steps + 1);
  if (spacing == "leading")
    for (auto& timestep : timesteps) timestep += config.number("steps_offset");
  std::reverse(timesteps.begin(), timesteps.end());
  timesteps.pop_back();
  return timesteps;
}

int64_t original_inference_steps(const SchedulerConfig& config) {
  auto steps = config.integer("original_inference_steps"), trained = config.integer("num_train_timesteps");
  check(steps <= trained, ErrorKind::unsupported,
        "{}: original_inference_steps {} is out of range; it must be from 1 to num_train_timesteps, {}",
        config.class_name(), steps, trained);
  return steps;
}

Tensor distilled_timesteps(const SchedulerConfig& config, int64_t steps) {
  auto original = original_inference_steps(config);
  auto stride = config.integer("num_train_timesteps") / original;
  auto gap = static_cast<double>(original) / static_cast<double>(steps);
  std::vector<double> timesteps;
  for (int64_t i = 0; i < steps; ++i) {
    auto skipped = static_cast<int64_t>(std::floor(static_cast<double>(i) * gap));
    timesteps.push_back(static_cast<double>((original - skipped) * stride - 1));
  }
  return to_int64(timesteps);
}

std::vector<double> doubled_after_first(const std::vector<double>& values) {
  std::vector<double> doubled;
  for (auto value : values) doubled.insert(doubled.end(), doubled.empty() ? 1 : 2, value);
  return doubled;
}

Tensor to_int64(const std::vector<double>& values) {
  return at::tensor(std::vector<int64_t>(values.begin(), values.end()));
}

Tensor to_float32(const std::vector<double>& values) {
  return at::tensor(std::vector<float>(values.begin(), values.end()));
}

}  // namespace lora
