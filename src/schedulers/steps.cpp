#include "schedulers/steps.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

Steps::Steps() : timesteps_(at::empty({0}, at::kLong)) {}

void Steps::start(Tensor timesteps) {
  timesteps_ = std::move(timesteps);
  index_.reset();
  begin_.reset();
}

void Steps::begin_at(int64_t index) {
  check(index >= 0 && index < count(), ErrorKind::usage,
        "set_begin_index: {} is out of range; the run has {} timesteps", index, count());
  begin_ = index;
}

int64_t Steps::find(const Tensor& timestep) const {
  auto value = timestep_value(timestep);
  auto matches = at::nonzero(timesteps_ == value).flatten();
  check(matches.numel() > 0, ErrorKind::usage, "the run does not have timestep {}; pass the entries of timesteps()",
        value);
  // The reference takes the second of equal timesteps.
  return matches[matches.numel() > 1 ? 1 : 0].item<int64_t>();
}

int64_t Steps::index(const Tensor& timestep) {
  check(count() > 0, ErrorKind::usage, "the scheduler does not have timesteps yet; call set_timesteps first");
  // A whole run begins at 0 even if the first two timesteps are equal. The reference would begin at 1 and then run out
  // of noise levels.
  if (!index_ && !begin_ && timestep_value(timestep) == timesteps_[0].item().toDouble()) index_ = 0;
  if (!index_) index_ = begin_ ? *begin_ : find(timestep);
  check(*index_ < count(), ErrorKind::usage, "all {} steps are done; call set_timesteps to start another run", count());
  return *index_;
}

Tensor Steps::indices_for_noise(const Tensor& timesteps) const {
  check(count() > 0, ErrorKind::usage,
        "the scheduler does not have timesteps yet; call set_timesteps before add_noise");
  auto flat = timesteps.flatten();
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < flat.numel(); ++i) indices.push_back(!begin_ ? find(flat[i]) : index_.value_or(*begin_));
  return at::tensor(indices);
}

void check_step_inputs(const Tensor& model_output, const Tensor& sample) {
  check(model_output.sizes() == sample.sizes(), ErrorKind::bad_shape,
        "scheduler step: model_output is {} and sample is {}; their shapes must be equal",
        c10::str(model_output.sizes()), c10::str(sample.sizes()));
  check(model_output.is_floating_point() && sample.is_floating_point(), ErrorKind::usage,
        "scheduler step: model_output is {} and sample is {}; both must be floating-point",
        to_string(model_output.scalar_type()), to_string(sample.scalar_type()));
}

double timestep_value(const Tensor& timestep) {
  check(timestep.defined() && timestep.numel() == 1, ErrorKind::usage,
        "a timestep must be one number; this tensor has {}; pass one entry of timesteps()",
        timestep.defined() ? timestep.numel() : 0);
  return timestep.item().toDouble();
}

int64_t table_index(const Tensor& timestep, int64_t trained) {
  auto value = timestep_value(timestep);
  check(value >= 0 && value < static_cast<double>(trained), ErrorKind::usage,
        "timestep {} is out of range; it must be from 0 to {}", value, trained - 1);
  return static_cast<int64_t>(value);
}

}  // namespace lora
