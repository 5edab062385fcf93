#include "schedulers/dpmsolver_scheduler.h"

#include <ATen/ATen.h>

#include "core/check.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

DPMSolverMethod solver_method(const SchedulerConfig& config) {
  auto algorithm = config.text("algorithm_type");
  DPMSolverMethod method{.plus_plus = algorithm.ends_with("++"),
                         .stochastic = algorithm.starts_with("sde"),
                         .heun = config.text("solver_type") == "heun",
                         .flow = config.flag("use_flow_sigmas")};
  check(method.plus_plus || config.text("final_sigmas_type") != "zero", ErrorKind::unsupported,
        "{}: final_sigmas_type \"zero\" does not work with algorithm_type \"{}\"; set it to \"sigma_min\"",
        config.class_name(), algorithm);
  check(method.plus_plus || config.text("prediction_type") != "flow_prediction", ErrorKind::unsupported,
        "{}: prediction_type \"flow_prediction\" does not work with algorithm_type \"{}\"; set that to "
        "\"dpmsolver++\"",
        config.class_name(), algorithm);
  check(method.plus_plus || !method.stochastic || config.integer("solver_order") < 3, ErrorKind::unsupported,
        "{}: solver_order 3 does not exist for algorithm_type \"{}\"; set it to 2", config.class_name(), algorithm);
  return method;
}

// The number of training timesteps whose log-SNR is above the config's lambda_min_clipped.
int64_t usable(const SchedulerConfig& config, const Tensor& alphas_cumprod) {
  auto lambda = at::log(at::sqrt(alphas_cumprod)) - at::log(at::sqrt(1 - alphas_cumprod));
  auto clipped = at::searchsorted(lambda.flip(0), config.number("lambda_min_clipped")).item<int64_t>();
  return alphas_cumprod.numel() - clipped;
}

}  // namespace

SchedulerFields dpmsolver_fields(const std::vector<std::string>& algorithms, bool lower_order_final) {
  SchedulerFields own{{.name = "solver_order", .fallback = 2, .least = 1, .most = 3},
                      {.name = "algorithm_type",
                       .fallback = "dpmsolver++",
                       .supported = std::vector<Json>(algorithms.begin(), algorithms.end()),
                       .synonyms = {{"deis", "dpmsolver++"}}},
                      {.name = "solver_type",
                       .fallback = "midpoint",
                       .supported = {"midpoint", "heun"},
                       .synonyms = {{"logrho", "midpoint"}, {"bh1", "midpoint"}, {"bh2", "midpoint"}}},
                      {.name = "lower_order_final", .fallback = lower_order_final},
                      {.name = "lambda_min_clipped", .fallback = "-Infinity", .type = Json::value_t::number_float},
                      // Learned variances need a model with twice the channels. The others are for DDPM and have no
                      // effect here.
                      {.name = "variance_type",
                       .fallback = nullptr,
                       .type = Json::value_t::string,
                       .supported = {"fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"}}};
  return concat({prediction_fields({"epsilon", "sample", "v_prediction", "flow_prediction"}), thresholding_fields(),
                 sigma_fields(), final_sigma_fields(), flow_fields(), std::move(own)});
}

DPMSolverScheduler::DPMSolverScheduler(SchedulerConfig config, const Tensor& alphas_cumprod)
    : ExponentialIntegrator(std::move(config), alphas_cumprod),
      solver_order_(config_.integer("solver_order")),
      usable_(usable(config_, alphas_cumprod)),
      method_(solver_method(config_)) {}

Tensor DPMSolverScheduler::convert(const Tensor& output, const Tensor& sample, const Tensor& level_sigma) const {
  if (method_.plus_plus) return to_clean(output, sample, level_sigma);
  auto epsilon = to_noise(output, sample, level_sigma);
  if (!config_.flag("thresholding")) return epsilon;
  auto [alpha, sigma] = level(level_sigma);
  auto x0 = threshold_sample(config_, (sample - sigma * epsilon) / alpha);
  return (sample - alpha * x0) / sigma;
}

std::vector<double> DPMSolverScheduler::usable_timesteps(const std::string& spacing, int64_t count) const {
  check(usable_ > 0, ErrorKind::usage, "{}: lambda_min_clipped is {}, which excludes all timesteps; set it lower",
        class_name(), config_.number("lambda_min_clipped"));
  return solver_timesteps(config_, spacing, count, usable_);
}

}  // namespace lora
