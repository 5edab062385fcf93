#pragma once
// Where a run stands: its timesteps and the next one to take, as the reference's step_index and begin_index.
#include <optional>
#include <vector>

#include "lora/tensor.h"

namespace lora {

class Steps {
 public:
  Steps();  // no timesteps

  // A new run, which begins where its first call says.
  void start(Tensor timesteps);
  const Tensor& timesteps() const { return timesteps_; }
  int64_t count() const { return timesteps_.numel(); }
  // The run begins at timesteps()[index]. Throws Error{usage} where there is none.
  void begin_at(int64_t index);

  // The index of the step to take. The run's first call finds it: begin_at()'s, or else that of `timestep`. Throws
  // Error{usage} before start(), after the last step and for a timestep that the run has not.
  int64_t index(const Tensor& timestep);
  void advance() { ++*index_; }
  // Which entries to noise samples to: one for each of `timesteps`, a 1-D tensor.
  Tensor indices_for_noise(const Tensor& timesteps) const;

 private:
  int64_t find(const Tensor& timestep) const;

  Tensor timesteps_;
  std::optional<int64_t> index_, begin_;
};

// Throws Error{bad_shape} where the two differ in shape, Error{usage} for a dtype that is not a floating one.
void check_step_inputs(const Tensor& model_output, const Tensor& sample);

// A timestep as a number; it may be of any integer or float dtype, on any device. Throws Error{usage} unless it is one
// number.
double timestep_value(const Tensor& timestep);
// The same for a table of `trained` timesteps. Throws Error{usage} where it lies outside.
int64_t table_index(const Tensor& timestep, int64_t trained);

}  // namespace lora
