// Diffusion Exponential Integrator Sampler, multistep in log(rho), orders 1 to 3 (Zhang & Chen 2022, arXiv:2204.13902).
// rho = sigma / alpha. The predicted noise is a polynomial in log(rho) through the last outputs.
#include <ATen/ATen.h>

#include <algorithm>

#include "schedulers/betas.h"
#include "schedulers/exponential_integrator.h"
#include "schedulers/registry.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

constexpr int64_t kFewSteps = 15;  // shorter runs end with lower orders, for stability

// A value of rho and its logarithm.
struct Rho {
  explicit Rho(const DPMSolverLevel& level) : value((level.sigma / level.alpha).item<float>()), log(numpy_log(value)) {}
  float value, log;
};

// The antiderivative at t of the polynomial in log(rho) that is 1 at b and 0 at c.
float antiderivative(const Rho& t, const Rho& b, const Rho& c) {
  return t.value * (-c.log + t.log - 1) / (b.log - c.log);
}

// The same for 1 at b and 0 at c and d.
float antiderivative(const Rho& t, const Rho& b, const Rho& c, const Rho& d) {
  float numerator = t.value * (c.log * (d.log - t.log + 1) - d.log * t.log + d.log + t.log * t.log - 2 * t.log + 2);
  return numerator / ((b.log - c.log) * (b.log - d.log));
}

class DEISMultistepScheduler final : public ExponentialIntegrator {
 public:
  explicit DEISMultistepScheduler(const SchedulerConfig& config)
      : ExponentialIntegrator(config, alphas_cumprod(config)), solver_order_(config_.integer("solver_order")) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options);
    auto [timesteps, sigmas] = levels(num_inference_steps);
    if (schedule_ == SigmaSchedule::karras) timesteps = rounded(timesteps);
    // The noise cannot be integrated up to the level 0. Levels that are chosen directly end with their last one.
    bool direct = flow_ || schedule_ != SigmaSchedule::from_timesteps;
    sigmas.push_back(direct ? sigmas.back() : table_.least());
    sigmas_ = to_float32(sigmas);
    steps_.start(to_int64(timesteps));
    outputs_.clear();
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions&) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    auto [alpha, sigma] = level(sigmas_[i]);
    keep((sample - alpha * to_clean(model_output, sample, sigmas_[i])) / sigma, solver_order_);

    auto order = update_order(i);
    auto prev_sample = order == 1 ? first_order(sample, i) : higher_order(sample, i, order);
    steps_.advance();
    return {prev_sample, {}};
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<DEISMultistepScheduler>(config_); }

 private:
  int64_t update_order(int64_t i) const {
    auto order = static_cast<int64_t>(outputs_.size());
    bool few = config_.flag("lower_order_final") && steps_.count() < kFewSteps;
    return few ? std::min(order, steps_.count() - i) : order;
  }

  Tensor first_order(const Tensor& sample, int64_t i) const {
    DPMSolverMethod ode{.plus_plus = false, .stochastic = false, .heun = false, .flow = flow_};
    return dpmsolver_update(ode, {sample, {outputs_[0]}, sigmas_of_step(i, 1), {}});
  }

  Tensor higher_order(const Tensor& sample, int64_t i, int64_t order) const {
    std::vector<Rho> rho;  // of the next sample, then of the outputs
    for (const auto& sigma : sigmas_of_step(i, order)) rho.emplace_back(level(sigma));
    const auto &t = rho[0], &s0 = rho[1], &s1 = rho[2];
    std::vector<float> weights;
    if (order == 2) {
      weights = {antiderivative(t, s0, s1) - antiderivative(s0, s0, s1),
                 antiderivative(t, s1, s0) - antiderivative(s0, s1, s0)};
    } else {
      const auto& s2 = rho[3];
      weights = {antiderivative(t, s0, s1, s2) - antiderivative(s0, s0, s1, s2),
                 antiderivative(t, s1, s2, s0) - antiderivative(s0, s1, s2, s0),
                 antiderivative(t, s2, s0, s1) - antiderivative(s0, s2, s0, s1)};
    }
    auto sum = sample / level(sigmas_[i]).alpha;
    for (size_t k = 0; k < weights.size(); ++k) sum = sum + at::scalar_tensor(weights[k], at::kFloat) * outputs_[k];
    return level(sigmas_[i + 1]).alpha * sum;
  }

  int64_t solver_order_;
};

}  // namespace

SchedulerClass deis_multistep_scheduler() {
  SchedulerFields own{{.name = "solver_order", .fallback = 2, .least = 1, .most = 3},
                      {.name = "algorithm_type",
                       .fallback = "deis",
                       .supported = {"deis"},
                       .synonyms = {{"dpmsolver", "deis"}, {"dpmsolver++", "deis"}}},
                      {.name = "solver_type",
                       .fallback = "logrho",
                       .supported = {"logrho"},
                       .synonyms = {{"midpoint", "logrho"}, {"heun", "logrho"}, {"bh1", "logrho"}, {"bh2", "logrho"}}},
                      {.name = "lower_order_final", .fallback = true}};
  auto fields = concat({beta_fields(0.0001, 0.02, "linear"), spacing_fields("linspace"),
                        prediction_fields({"epsilon", "sample", "v_prediction", "flow_prediction"}),
                        thresholding_fields(), sigma_fields(), flow_fields(), std::move(own)});
  return scheduler_class<DEISMultistepScheduler>("DEISMultistepScheduler", fields);
}

}  // namespace lora
