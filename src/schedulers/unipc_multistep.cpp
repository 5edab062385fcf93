// UniPC, a unified predictor and corrector, in its B(h) version (Zhao et al. 2023, arXiv:2302.04867). The corrector
// improves a sample with the model output that was computed at that sample, before the predictor goes on from it.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/check.h"
#include "schedulers/betas.h"
#include "schedulers/exponential_integrator.h"
#include "schedulers/registry.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

constexpr double kBelowOne = 1e-6;  // the first level of flow matching has an alpha of this, not of 0

std::set<int64_t> steps_without_corrector(const SchedulerConfig& config) {
  auto numbers = config.numbers("disable_corrector");
  return {numbers.begin(), numbers.end()};
}

class UniPCMultistepScheduler final : public ExponentialIntegrator {
 public:
  explicit UniPCMultistepScheduler(const SchedulerConfig& config)
      : ExponentialIntegrator(config, alphas_cumprod_above_zero(config), SigmaSchedule::karras),
        solver_order_(config_.integer("solver_order")),
        predict_x0_(config_.flag("predict_x0")),
        uncorrected_(steps_without_corrector(config_)) {
    check_ends_at_zero();
    check(flow_ || !config_.maybe_number("shift_terminal"), ErrorKind::unsupported,
          "UniPCMultistepScheduler: shift_terminal needs the levels of flow matching; set use_flow_sigmas to true");
    check(predict_x0_ || prediction_ != PredictionType::flow_prediction, ErrorKind::unsupported,
          "UniPCMultistepScheduler: prediction_type \"flow_prediction\" needs predict_x0; set it to true");
  }

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options);
    auto [timesteps, sigmas] = levels(num_inference_steps);
    if (schedule_ == SigmaSchedule::karras && flow_)
      for (size_t i = 0; i < sigmas.size(); ++i) {
        sigmas[i] /= sigmas[i] + 1;
        timesteps[i] = sigmas[i] * static_cast<double>(trained_);
      }
    else if (schedule_ == SigmaSchedule::karras)
      timesteps = rounded(timesteps);
    bool direct = flow_ || schedule_ != SigmaSchedule::from_timesteps;
    sigmas.push_back(ends_at_zero() ? 0 : direct ? sigmas.back() : table_.least());
    sigmas_ = to_float32(sigmas);
    steps_.start(to_int64(timesteps));
    outputs_.clear();
    order_ = 0;
    last_sample_.reset();
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions&) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    auto output = predict_x0_ ? to_clean(model_output, sample, sigmas_[i]) : to_noise(model_output, sample, sigmas_[i]);
    auto x = last_sample_.defined() && !uncorrected_.contains(i - 1) ? correct(i, output) : sample;

    keep(output, solver_order_);
    order_ = static_cast<int64_t>(outputs_.size());
    if (config_.flag("lower_order_final")) order_ = std::min(order_, steps_.count() - i);
    last_sample_ = x;
    auto prev_sample = predict(i, x);
    steps_.advance();
    return {prev_sample, {}};
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<UniPCMultistepScheduler>(config_); }

 private:
  bool ends_at_zero() const { return config_.text("final_sigmas_type") == "zero"; }

  // The step to the level 0 has an infinite length. Only its first order has a finite result.
  void check_ends_at_zero() const {
    if (!ends_at_zero()) return;
    for (const char* needed : {"predict_x0", "lower_order_final"})
      check(config_.flag(needed), ErrorKind::unsupported,
            "UniPCMultistepScheduler: final_sigmas_type \"zero\" does not work with {} false; set final_sigmas_type to "
            "\"sigma_min\"",
            needed);
  }

  std::vector<double> flow_sigmas(int64_t count) const override {
    auto sigmas = numpy_linspace(1, 1 / static_cast<double>(trained_), count + 1);
    sigmas.pop_back();
    for (auto& sigma : sigmas) sigma = flow_shifted(sigma);
    if (auto terminal = config_.maybe_number("shift_terminal").value_or(0); terminal != 0)
      stretch_to_terminal(sigmas, terminal, class_name());
    if (std::fabs(sigmas.front() - 1) < kBelowOne) sigmas.front() -= kBelowOne;
    return sigmas;
  }

  // A step of order p is: linear - scale · Σ rho_k · D_k. Its weights rho solve R rho = b.
  struct Update {
    Tensor linear, scale;
    std::vector<Tensor> differences;  // of the outputs to the newest one, p - 1 of them
    Tensor R, b;                      // [p, p], [p]
  };

  // The update from the level before `to` to that level, by the outputs that are kept.
  Update update(int64_t to, const Tensor& x) const {
    auto level_t = level(sigmas_[to]), level_s = level(sigmas_[to - 1]);
    auto lambda_s = dpmsolver_lambda(level_s);
    auto h = dpmsolver_lambda(level_t) - lambda_s;
    auto hh = predict_x0_ ? -h : h;
    auto h_phi_1 = at::expm1(hh);
    auto B = config_.text("solver_type") == "bh1" ? hh : h_phi_1;
    auto size = predict_x0_ ? level_t.alpha : level_t.sigma;
    auto kept = predict_x0_ ? level_t.sigma / level_s.sigma : level_t.alpha / level_s.alpha;

    std::vector<Tensor> differences, r, rows, b;
    for (int64_t k = 1; k < order_; ++k) {
      r.push_back((dpmsolver_lambda(level(sigmas_[to - 1 - k])) - lambda_s) / h);
      differences.push_back((outputs_[static_cast<size_t>(k)] - outputs_[0]) / r.back());
    }
    r.push_back(at::ones({}, at::kFloat));
    auto all_r = at::stack(r);
    auto h_phi_k = h_phi_1 / hh - 1;
    double factorial = 1;
    for (int64_t k = 1; k <= order_; ++k) {
      rows.push_back(at::pow(all_r, k - 1));
      b.push_back(h_phi_k * factorial / B);
      factorial *= static_cast<double>(k + 1);
      h_phi_k = h_phi_k / hh - 1 / factorial;
    }
    return {kept * x - size * h_phi_1 * outputs_[0], size * B, differences, at::stack(rows), at::stack(b)};
  }

  static Tensor weighted_sum(const Tensor& weights, const std::vector<Tensor>& differences) {
    return at::einsum("k,bkc...->bc...", {weights, at::stack(differences, 1)});
  }

  Tensor predict(int64_t i, const Tensor& x) const {
    // A last level that is repeated makes a step of no length, whose weights are 0 / 0.
    if (at::equal(sigmas_[i], sigmas_[i + 1])) return x;
    auto u = update(i + 1, x);
    if (order_ == 1) return u.linear;
    auto weights = order_ == 2
                       ? at::full({1}, 0.5, x.options())
                       : at::linalg_solve(u.R.slice(0, 0, -1).slice(1, 0, -1), u.b.slice(0, 0, -1)).to(x.options());
    return u.linear - u.scale * weighted_sum(weights, u.differences);
  }

  // The sample at step i again, from the sample before it and from the model output at step i.
  Tensor correct(int64_t i, const Tensor& output) const {
    auto u = update(i, last_sample_);
    auto weights = order_ == 1 ? at::full({1}, 0.5, last_sample_.options())
                               : at::linalg_solve(u.R, u.b).to(last_sample_.options());
    auto change = weights[-1] * (output - outputs_[0]);
    if (order_ > 1) change = weighted_sum(weights.slice(0, 0, -1), u.differences) + change;
    return u.linear - u.scale * change;
  }

  int64_t solver_order_;
  bool predict_x0_;
  std::set<int64_t> uncorrected_;  // the steps whose results are not corrected

  int64_t order_ = 0;   // of the last predictor
  Tensor last_sample_;  // from which it started
};

}  // namespace

SchedulerClass unipc_multistep_scheduler() {
  SchedulerFields own{
      {.name = "solver_order", .fallback = 2, .least = 1, .most = 10},
      {.name = "predict_x0", .fallback = true},
      {.name = "solver_type",
       .fallback = "bh2",
       .supported = {"bh1", "bh2"},
       .synonyms = {{"midpoint", "bh2"}, {"heun", "bh2"}, {"logrho", "bh2"}}},
      {.name = "lower_order_final", .fallback = true},
      {.name = "disable_corrector", .fallback = Json::array()},
      {.name = "solver_p", .fallback = nullptr},  // another scheduler as the predictor, an object that no file holds
      {.name = "sigma_min", .fallback = nullptr, .type = Json::value_t::number_float},
      {.name = "sigma_max", .fallback = nullptr, .type = Json::value_t::number_float},
      {.name = "shift_terminal", .fallback = nullptr, .type = Json::value_t::number_float, .least = 0, .most = 0.999}};
  auto fields = concat({beta_fields(0.0001, 0.02, "linear"), zero_snr_fields(), spacing_fields("linspace"),
                        prediction_fields({"epsilon", "sample", "v_prediction", "flow_prediction"}),
                        thresholding_fields(), sigma_fields(), final_sigma_fields(), flow_fields(), std::move(own)});
  return scheduler_class<UniPCMultistepScheduler>("UniPCMultistepScheduler", fields);
}

}  // namespace lora
