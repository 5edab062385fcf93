#pragma once
// One update of the DPM-Solvers (Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095) as a weighted sum.
#include <vector>

#include "lora/tensor.h"

namespace lora {

struct DPMSolverMethod {
  bool plus_plus;   // true: integrates the predicted clean sample; false: the predicted noise
  bool stochastic;  // true: the SDE; false: the ODE
  bool heun;        // true: second-order updates follow Heun's method; false: the midpoint rule
  bool flow;        // true: the levels are those of flow matching
};

struct DPMSolverInputs {
  Tensor sample;                // float32
  std::vector<Tensor> outputs;  // converted model outputs, newest first; their number is the order of the update, 1 … 3
  std::vector<Tensor> sigmas;  // the next noise level, then the levels of the outputs; scalars, float32 on the CPU
  Tensor noise;                // float32, if the method is stochastic
};

// A sample at a noise level is alpha · clean + sigma · noise.
struct DPMSolverLevel {
  Tensor alpha, sigma;
};
DPMSolverLevel dpmsolver_level(const Tensor& sigma, bool flow);

// log(alpha / sigma).
Tensor dpmsolver_lambda(const DPMSolverLevel& level);

// The sample at the next level, from the sample at the level of the newest output. The SDE that integrates the noise
// does not have a third order.
Tensor dpmsolver_update(const DPMSolverMethod& method, const DPMSolverInputs& inputs);
// The same from the sample at the level of the oldest output.
Tensor dpmsolver_singlestep_update(const DPMSolverMethod& method, const DPMSolverInputs& inputs);

}  // namespace lora
