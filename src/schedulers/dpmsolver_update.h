#pragma once
// One update of the multistep DPM-Solvers (Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095) as a weighted sum.
#include <vector>

#include "lora/tensor.h"

namespace lora {

struct DPMSolverMethod {
  bool plus_plus;   // the model's clean sample is integrated, else its noise
  bool stochastic;  // the SDE in place of the ODE
  bool heun;        // how a second-order update weighs its difference; else by the midpoint rule
};

struct DPMSolverInputs {
  Tensor sample;                // float32
  std::vector<Tensor> outputs;  // converted model outputs, newest first: as many as the update's order, 1 … 3
  std::vector<Tensor> sigmas;   // the next noise level, then those of the outputs; scalars, float32 on the CPU
  Tensor noise;                 // float32, where the method is stochastic
};

// What a noise level means for a sample: alpha · clean + sigma · noise.
struct DPMSolverLevel {
  Tensor alpha, sigma;
};
DPMSolverLevel dpmsolver_level(const Tensor& sigma);

// The sample at the next level. The stochastic method on the noise prediction has no third order.
Tensor dpmsolver_update(const DPMSolverMethod& method, const DPMSolverInputs& inputs);

}  // namespace lora
