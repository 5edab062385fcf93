#include "schedulers/dpmsolver_update.h"

#include <ATen/ATen.h>

namespace lora {

namespace {

// The weights of x_t = sample · x + d0 · D0 + (midpoint or heun) · D1 + d2 · D2 + noise · z, where D0, D1 and D2 are
// the differences of the outputs and z is the noise.
struct Weights {
  Tensor sample, d0, midpoint, heun, d2, noise;
};

struct Interval {
  DPMSolverLevel to, from;
  Tensor h;  // the step in lambda = log(alpha / sigma)
};

struct Times {
  std::vector<DPMSolverLevel> levels;
  std::vector<Tensor> lambdas;
};

Weights ode_plus_plus(const Interval& v) {
  auto e = at::exp(-v.h) - 1.0;
  return {.sample = v.to.sigma / v.from.sigma,
          .d0 = -(v.to.alpha * e),
          .midpoint = -0.5 * (v.to.alpha * e),
          .heun = v.to.alpha * (e / v.h + 1.0),
          .d2 = -(v.to.alpha * ((e + v.h) / v.h.pow(2) - 0.5))};
}

Weights ode(const Interval& v) {
  auto e = at::exp(v.h) - 1.0;
  return {.sample = v.to.alpha / v.from.alpha,
          .d0 = -(v.to.sigma * e),
          .midpoint = -0.5 * (v.to.sigma * e),
          .heun = -(v.to.sigma * (e / v.h - 1.0)),
          .d2 = -(v.to.sigma * ((e - v.h) / v.h.pow(2) - 0.5))};
}

Weights sde_plus_plus(const Interval& v) {
  auto e = 1.0 - at::exp(-2.0 * v.h);
  return {.sample = v.to.sigma / v.from.sigma * at::exp(-v.h),
          .d0 = v.to.alpha * e,
          .midpoint = 0.5 * (v.to.alpha * e),
          .heun = v.to.alpha * (e / (-2.0 * v.h) + 1.0),
          .d2 = v.to.alpha * ((e - 2.0 * v.h) / (2.0 * v.h).pow(2) - 0.5),
          .noise = v.to.sigma * at::sqrt(e)};
}

Weights sde(const Interval& v) {
  auto e = at::exp(v.h) - 1.0;
  return {.sample = v.to.alpha / v.from.alpha,
          .d0 = -2.0 * (v.to.sigma * e),
          .midpoint = -(v.to.sigma * e),
          .heun = -2.0 * (v.to.sigma * (e / v.h - 1.0)),
          .noise = v.to.sigma * at::sqrt(at::exp(2.0 * v.h) - 1.0)};
}

Weights weights(const DPMSolverMethod& method, const Interval& v) {
  if (method.plus_plus) return method.stochastic ? sde_plus_plus(v) : ode_plus_plus(v);
  return method.stochastic ? sde(v) : ode(v);
}

}  // namespace

DPMSolverLevel dpmsolver_level(const Tensor& sigma, bool flow) {
  if (flow) return {1 - sigma, sigma};
  auto alpha = (sigma.pow(2) + 1).pow(0.5).reciprocal();
  return {alpha, sigma * alpha};
}

Tensor dpmsolver_lambda(const DPMSolverLevel& level) { return at::log(level.alpha) - at::log(level.sigma); }

// The levels and lambdas of an update: those of the next sample, then those of the outputs.
static Times times(const DPMSolverMethod& method, const std::vector<Tensor>& sigmas) {
  Times all;
  for (const auto& sigma : sigmas) {
    all.levels.push_back(dpmsolver_level(sigma, method.flow));
    all.lambdas.push_back(dpmsolver_lambda(all.levels.back()));
  }
  return all;
}

Tensor dpmsolver_update(const DPMSolverMethod& method, const DPMSolverInputs& inputs) {
  const auto& [x, m, sigmas, noise] = inputs;
  const auto [level, lambda] = times(method, sigmas);
  auto h = lambda[0] - lambda[1];
  auto w = weights(method, {level[0], level[1], h});

  auto x_t = w.sample * x + w.d0 * m[0];
  if (m.size() > 1) {
    auto r0 = (lambda[1] - lambda[2]) / h;
    auto d1 = r0.reciprocal() * (m[0] - m[1]);
    if (m.size() == 2) {
      x_t = x_t + (method.heun ? w.heun : w.midpoint) * d1;
    } else {
      auto r1 = (lambda[2] - lambda[3]) / h;
      auto change = d1 - r1.reciprocal() * (m[1] - m[2]);
      auto d2 = (r0 + r1).reciprocal() * change;
      x_t = x_t + w.heun * (d1 + r0 / (r0 + r1) * change) + w.d2 * d2;
    }
  }
  return method.stochastic ? x_t + w.noise * noise : x_t;
}

Tensor dpmsolver_singlestep_update(const DPMSolverMethod& method, const DPMSolverInputs& inputs) {
  const auto& [x, m, sigmas, noise] = inputs;
  const auto [level, lambda] = times(method, sigmas);
  const auto oldest = m.size();
  auto h = lambda[0] - lambda[oldest];
  auto w = weights(method, {level[0], level[oldest], h});

  auto x_t = w.sample * x + w.d0 * m[oldest - 1];
  if (m.size() > 1) {
    auto r0 = (lambda[1] - lambda[oldest]) / h;
    auto d1 = r0.reciprocal() * (m[0] - m[oldest - 1]);
    if (m.size() == 2) {
      x_t = x_t + (method.heun ? w.heun : w.midpoint) * d1;
    } else if (method.heun) {
      auto r1 = (lambda[2] - lambda[3]) / h;
      auto d1_middle = r1.reciprocal() * (m[1] - m[2]);
      auto d2 = 2.0 * (d1 - d1_middle) / (r0 - r1);
      x_t = x_t + w.heun * ((r0 * d1_middle - r1 * d1) / (r0 - r1)) + w.d2 * d2;
    } else {
      x_t = x_t + w.heun * d1;
    }
  }
  return method.stochastic ? x_t + w.noise * noise : x_t;
}

}  // namespace lora
