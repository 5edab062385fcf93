#pragma once
// The timesteps of a run and the index of its next step: step_index and begin_index in the reference.
#include <optional>
#include <vector>

#include "lora/tensor.h"

namespace lora {

class Steps {
 public:
  Steps();  // no timesteps

  // Starts a new run. The timestep of its first step sets the index.
  void start(Tensor timesteps);
  const Tensor& timesteps() const { return timesteps_; }
  int64_t count() const { return timesteps_.numel(); }
  // The run begins at timesteps()[index]. Throws Error{usage} if the index is out of range.
  void begin_at(int64_t index);

  // The index of the next step. The first call of a run sets it: to that of begin_at(), or else to that of `timestep`.
  // Throws Error{usage} before start(), after the last step and for a timestep that the run does not have.
  int64_t index(const Tensor& timestep);
  void advance() { ++*index_; }
  // For add_noise(): the index of each of `timesteps`, a 1-D tensor.
  Tensor indices_for_noise(const Tensor& timesteps) const;

 private:
  int64_t find(const Tensor& timestep) const;

  Tensor timesteps_;
  std::optional<int64_t> index_, begin_;
};

// Throws Error{bad_shape} if the shapes differ, Error{usage} if a dtype is not floating-point.
void check_step_inputs(const Tensor& model_output, const Tensor& sample);

// The value of a timestep of any integer or floating-point dtype, on any device. Throws Error{usage} unless the tensor
// has exactly one element.
double timestep_value(const Tensor& timestep);
// The timestep as an index into a table of `trained` entries. Throws Error{usage} if it is out of range.
int64_t table_index(const Tensor& timestep, int64_t trained);

}  // namespace lora
