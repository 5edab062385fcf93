#include "schedulers/betas.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "core/check.h"

namespace lora {

// Limits how much memory a config can make the schedulers allocate.
static constexpr double kMostTrainTimesteps = 1e5;

SchedulerFields beta_fields(double beta_start, double beta_end, const std::string& beta_schedule) {
  return {{.name = "num_train_timesteps", .fallback = 1000, .least = 1, .most = kMostTrainTimesteps},
          {.name = "beta_start", .fallback = beta_start, .least = 0, .most = 1},
          {.name = "beta_end", .fallback = beta_end, .least = 0, .most = 1},
          {.name = "beta_schedule",
           .fallback = beta_schedule,
           .supported = {"linear", "scaled_linear", "squaredcos_cap_v2"}},
          {.name = "trained_betas", .fallback = nullptr, .type = Json::value_t::array}};
}

SchedulerFields zero_snr_fields() { return {{.name = "rescale_betas_zero_snr", .fallback = false}}; }

SchedulerFields beta_fields_with_exp(double beta_start, double beta_end, const std::string& beta_schedule) {
  auto fields = beta_fields(beta_start, beta_end, beta_schedule);
  for (auto& field : fields)
    if (field.name == "beta_schedule") field.supported.push_back("exp");
  return fields;
}

// Nichol & Dhariwal 2021, equation 17.
static double squared_cosine(double t) { return std::pow(std::cos((t + 0.008) / 1.008 * std::numbers::pi / 2), 2.0); }

static double exponential(double t) { return std::exp(t * -12.0); }

// The betas, capped at 0.999, of an alpha_bar that is a function of the time from 0 to 1.
static Tensor betas_for_alpha_bar(int64_t count, double (*alpha_bar)(double)) {
  auto at_index = [&](int64_t i) { return alpha_bar(static_cast<double>(i) / static_cast<double>(count)); };
  std::vector<float> betas;
  for (int64_t i = 0; i < count; ++i)
    betas.push_back(static_cast<float>(std::min(1 - at_index(i + 1) / at_index(i), 0.999)));
  return at::tensor(betas);
}

static Tensor make_betas(const SchedulerConfig& config) {
  auto count = config.integer("num_train_timesteps");
  auto trained = config.numbers("trained_betas");
  if (!trained.empty()) {
    check(static_cast<int64_t>(trained.size()) == count, ErrorKind::bad_file,
          "{}: trained_betas holds {} numbers, num_train_timesteps is {}", config.class_name(), trained.size(), count);
    return at::tensor(trained);
  }
  auto start = config.number("beta_start"), end = config.number("beta_end");
  auto schedule = config.text("beta_schedule");
  if (schedule == "linear") return at::linspace(start, end, count, at::kFloat);
  if (schedule == "scaled_linear")
    return at::linspace(std::pow(start, 0.5), std::pow(end, 0.5), count, at::kFloat).pow(2);
  return betas_for_alpha_bar(count, schedule == "exp" ? exponential : squared_cosine);
}

// Lin et al. 2023 (arXiv:2305.08891), algorithm 1.
static Tensor rescale_zero_terminal_snr(const Tensor& betas) {
  auto alphas_bar_sqrt = at::cumprod(1.0 - betas, 0).sqrt();
  auto first = alphas_bar_sqrt[0], last = alphas_bar_sqrt[-1];
  alphas_bar_sqrt = (alphas_bar_sqrt - last) * (first / (first - last));

  auto alphas_bar = alphas_bar_sqrt.pow(2);
  auto alphas = alphas_bar.slice(0, 1) / alphas_bar.slice(0, 0, -1);
  return 1 - at::cat({alphas_bar.slice(0, 0, 1), alphas});
}

Tensor alphas_cumprod(const SchedulerConfig& config) { return at::cumprod(1.0 - make_betas(config), 0); }

Tensor alphas_cumprod_zero_snr(const SchedulerConfig& config) {
  auto betas = make_betas(config);
  if (config.flag("rescale_betas_zero_snr")) betas = rescale_zero_terminal_snr(betas);
  return at::cumprod(1.0 - betas, 0);
}

Tensor alphas_cumprod_above_zero(const SchedulerConfig& config) {
  auto alphas_bar = alphas_cumprod_zero_snr(config);
  if (config.flag("rescale_betas_zero_snr")) alphas_bar[-1].fill_(0x1p-24);
  return alphas_bar;
}

Tensor final_alpha_cumprod(const SchedulerConfig& config, const Tensor& alphas_cumprod) {
  return config.flag("set_alpha_to_one") ? at::scalar_tensor(1.0f, at::kFloat) : alphas_cumprod[0];
}

}  // namespace lora
