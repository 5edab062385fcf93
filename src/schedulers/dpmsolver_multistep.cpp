// The multistep DPM-Solver and DPM-Solver++, orders 1 to 3, ODE and SDE (Lu et al. 2022, arXiv:2206.00927 and
// arXiv:2211.01095). dpmsolver_update.h has the updates.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "nn/random.h"
#include "schedulers/betas.h"
#include "schedulers/configured_scheduler.h"
#include "schedulers/dpmsolver_update.h"
#include "schedulers/noise.h"
#include "schedulers/prediction.h"
#include "schedulers/registry.h"
#include "schedulers/sigmas.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

constexpr int64_t kFewSteps = 15;  // shorter runs end with lower orders, for stability

DPMSolverMethod solver_method(const SchedulerConfig& config) {
  auto algorithm = config.text("algorithm_type");
  DPMSolverMethod method{.plus_plus = algorithm.ends_with("++"),
                         .stochastic = algorithm.starts_with("sde"),
                         .heun = config.text("solver_type") == "heun"};
  check(method.plus_plus || config.text("final_sigmas_type") != "zero", ErrorKind::unsupported,
        "DPMSolverMultistepScheduler: final_sigmas_type \"zero\" does not work with algorithm_type \"{}\"; set it to "
        "\"sigma_min\"",
        algorithm);
  check(method.plus_plus || !method.stochastic || config.integer("solver_order") < 3, ErrorKind::unsupported,
        "DPMSolverMultistepScheduler: solver_order 3 does not exist for algorithm_type \"{}\"; set it to 2", algorithm);
  return method;
}

// The number of training timesteps whose log-SNR is above the config's lambda_min_clipped.
int64_t usable_timesteps(const SchedulerConfig& config, const Tensor& alphas_cumprod) {
  auto lambda = at::log(at::sqrt(alphas_cumprod)) - at::log(at::sqrt(1 - alphas_cumprod));
  auto clipped = at::searchsorted(lambda.flip(0), config.number("lambda_min_clipped")).item<int64_t>();
  return alphas_cumprod.numel() - clipped;
}

class DPMSolverMultistepScheduler final : public ConfiguredScheduler {
 public:
  explicit DPMSolverMultistepScheduler(SchedulerConfig config)
      : DPMSolverMultistepScheduler(config, alphas_cumprod_above_zero(config)) {}

  DPMSolverMultistepScheduler(SchedulerConfig config, const Tensor& alphas_cumprod)
      : ConfiguredScheduler(std::move(config)),
        solver_order_(config_.integer("solver_order")),
        usable_(usable_timesteps(config_, alphas_cumprod)),
        prediction_(prediction_type(config_)),
        method_(solver_method(config_)),
        schedule_(sigma_schedule(config_)),
        table_(alphas_cumprod) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options);
    auto sigmas = direct_sigmas(num_inference_steps);
    auto timesteps = sigmas.empty() ? spaced(num_inference_steps) : table_.to_timesteps(sigmas);
    if (sigmas.empty()) sigmas = table_.at_timesteps(timesteps);
    bool rounds = schedule_ == SigmaSchedule::karras || config_.flag("use_lu_lambdas");
    if (rounds && config_.text("beta_schedule") != "squaredcos_cap_v2") timesteps = rounded(timesteps);

    sigmas_ = close_sigmas(config_, table_, sigmas);
    steps_.start(to_int64(timesteps));
    outputs_.clear();
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    auto noise = method_.stochastic
                     ? randn_tensor(model_output.sizes(), options.generators, at::kFloat, model_output.device())
                     : Tensor();
    auto output = convert(model_output, sample, sigmas_[i]);
    outputs_.insert(outputs_.begin(), output);
    outputs_.resize(std::min(outputs_.size(), static_cast<size_t>(solver_order_)));

    auto order = update_order(i);
    std::vector<Tensor> sigmas;
    for (int64_t k = i + 1; k >= i + 1 - order; --k) sigmas.push_back(sigmas_[k]);
    auto prev_sample = dpmsolver_update(
        method_, {sample.to(at::kFloat), {outputs_.begin(), outputs_.begin() + order}, std::move(sigmas), noise});
    steps_.advance();
    return {prev_sample.to(output.scalar_type()), {}};
  }

  Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const override {
    check_noise_inputs({original_samples, noise, timesteps});
    auto sigmas = sigmas_.index_select(0, steps_.indices_for_noise(timesteps));
    auto [alpha, sigma] = dpmsolver_level(per_image(sigmas, original_samples));
    return alpha * original_samples + sigma * noise;
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<DPMSolverMultistepScheduler>(config_); }

 private:
  // The sigmas of a schedule that chooses them directly. Empty if they follow from the timesteps.
  std::vector<double> direct_sigmas(int64_t count) const {
    if (schedule_ != SigmaSchedule::karras && config_.flag("use_lu_lambdas")) {
      auto sigmas = numpy_linspace(0, 1, count);
      for (auto& sigma : sigmas) sigma = std::exp(table_.most_log() + sigma * (table_.least_log() - table_.most_log()));
      return sigmas;
    }
    if (schedule_ == SigmaSchedule::from_timesteps) return {};
    return choose_sigmas(schedule_, config_, {table_.most(), table_.least()}, count);
  }

  // As spaced_timesteps(), but over the usable timesteps only. One more step is spaced, and its end is left out.
  std::vector<double> spaced(int64_t count) const {
    auto spacing = config_.text("timestep_spacing");
    if (spacing == "trailing") {
      check(usable_ > 0, ErrorKind::usage, "{}: lambda_min_clipped is {}, which excludes all timesteps; set it lower",
            class_name(), config_.number("lambda_min_clipped"));
      auto ratio = static_cast<double>(trained_) / static_cast<double>(count);
      auto timesteps = rounded(numpy_arange(static_cast<double>(usable_), 0, -ratio));
      for (auto& timestep : timesteps) timestep -= 1;
      return timesteps;
    }
    check_num_inference_steps(config_, count, usable_ - 1);
    auto last = static_cast<double>(usable_ - 1);
    auto ratio = static_cast<double>(usable_ / (count + 1));
    auto timesteps = spacing == "linspace" ? rounded(numpy_linspace(0, last, count + 1))
                                           : numpy_linspace(0, ratio * static_cast<double>(count), count + 1);
    if (spacing == "leading")
      for (auto& timestep : timesteps) timestep += config_.number("steps_offset");
    std::reverse(timesteps.begin(), timesteps.end());
    timesteps.pop_back();
    return timesteps;
  }

  int64_t update_order(int64_t i) const {
    bool few = config_.flag("lower_order_final") && steps_.count() < kFewSteps;
    bool last_first = config_.flag("euler_at_final") || few || config_.text("final_sigmas_type") == "zero";
    auto order = static_cast<int64_t>(outputs_.size());
    if (i == steps_.count() - 1 && last_first) return 1;
    if (i == steps_.count() - 2 && few) return std::min<int64_t>(order, 2);
    return order;
  }

  // Converts a model output to what the method integrates: the clean sample or the noise.
  Tensor convert(const Tensor& output, const Tensor& sample, const Tensor& level_sigma) const {
    auto [alpha, sigma] = dpmsolver_level(level_sigma);
    if (method_.plus_plus) {
      auto x0 = output;
      if (prediction_ == PredictionType::epsilon) x0 = (sample - sigma * output) / alpha;
      if (prediction_ == PredictionType::v_prediction) x0 = alpha * sample - sigma * output;
      return threshold_sample(config_, x0);
    }
    auto epsilon = output;
    if (prediction_ == PredictionType::sample) epsilon = (sample - alpha * output) / sigma;
    if (prediction_ == PredictionType::v_prediction) epsilon = alpha * output + sigma * sample;
    if (!config_.flag("thresholding")) return epsilon;
    auto x0 = threshold_sample(config_, (sample - sigma * epsilon) / alpha);
    return (sample - alpha * x0) / sigma;
  }

  int64_t solver_order_, usable_;
  PredictionType prediction_;
  DPMSolverMethod method_;
  SigmaSchedule schedule_;
  SigmaTable table_;
  Tensor sigmas_;                // float32, on the CPU: the levels of the run, and the level after its last step
  std::vector<Tensor> outputs_;  // converted, newest first, at most solver_order_
};

}  // namespace

SchedulerClass dpmsolver_multistep_scheduler() {
  SchedulerFields own{
      {.name = "solver_order", .fallback = 2, .least = 1, .most = 3},
      {.name = "algorithm_type",
       .fallback = "dpmsolver++",
       .supported = {"dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"},
       .synonyms = {{"deis", "dpmsolver++"}}},
      {.name = "solver_type",
       .fallback = "midpoint",
       .supported = {"midpoint", "heun"},
       .synonyms = {{"logrho", "midpoint"}, {"bh1", "midpoint"}, {"bh2", "midpoint"}}},
      {.name = "lower_order_final", .fallback = true},
      {.name = "euler_at_final", .fallback = false},
      {.name = "use_lu_lambdas", .fallback = false},
      {.name = "use_flow_sigmas", .fallback = false, .supported = {false}},
      {.name = "flow_shift", .fallback = 1.0},
      {.name = "lambda_min_clipped", .fallback = "-Infinity", .type = Json::value_t::number_float},
      // Learned variances need a model with twice the channels. The others are for DDPM and have no effect here.
      {.name = "variance_type",
       .fallback = nullptr,
       .type = Json::value_t::string,
       .supported = {"fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"}},
      {.name = "use_dynamic_shifting", .fallback = false, .supported = {false}},
      {.name = "time_shift_type", .fallback = "exponential", .supported = {"exponential"}}};
  auto fields = concat({beta_fields(0.0001, 0.02, "linear"), zero_snr_fields(), spacing_fields("linspace"),
                        prediction_fields({"epsilon", "sample", "v_prediction"}), thresholding_fields(), sigma_fields(),
                        std::move(own)});
  return scheduler_class<DPMSolverMultistepScheduler>("DPMSolverMultistepScheduler", fields);
}

}  // namespace lora
