#include "schedulers/sigmas.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <boost/math/special_functions/beta.hpp>
#include <cmath>
#include <numbers>

#include "core/check.h"
#include "core/text.h"
#include "schedulers/timesteps.h"

namespace lora {

SchedulerFields sigma_fields() {
  return {{.name = "use_karras_sigmas", .fallback = false},
          {.name = "use_exponential_sigmas", .fallback = false},
          {.name = "use_beta_sigmas", .fallback = false}};
}

SchedulerFields final_sigma_fields() {
  return {{.name = "final_sigmas_type", .fallback = "zero", .supported = {"zero", "sigma_min"}}};
}

SigmaSchedule sigma_schedule(const SchedulerConfig& config) {
  static const std::pair<const char*, SigmaSchedule> rows[] = {{"use_karras_sigmas", SigmaSchedule::karras},
                                                               {"use_exponential_sigmas", SigmaSchedule::exponential},
                                                               {"use_beta_sigmas", SigmaSchedule::beta}};
  std::vector<std::string> set;
  auto schedule = SigmaSchedule::from_timesteps;
  for (const auto& [name, its] : rows) {
    if (!config.flag(name)) continue;
    set.push_back(name);
    schedule = its;
  }
  check(set.size() < 2, ErrorKind::unsupported, "{}: the config sets {}; set all but one of them to false",
        config.class_name(), join(set, " and "));
  return schedule;
}

SigmaTable::SigmaTable(const Tensor& alphas_cumprod) {
  auto sigmas = ((1 - alphas_cumprod) / alphas_cumprod).pow(0.5).contiguous();
  const auto* begin = sigmas.const_data_ptr<float>();
  sigmas_.assign(begin, begin + sigmas.numel());
  for (auto sigma : sigmas_) log_sigmas_.push_back(numpy_log(sigma));
}

double SigmaTable::at_timestep(double timestep) const {
  if (!(timestep > 0)) return sigmas_.front();
  if (timestep >= static_cast<double>(sigmas_.size() - 1)) return sigmas_.back();
  auto low = static_cast<size_t>(timestep);
  double slope = static_cast<double>(sigmas_[low + 1]) - sigmas_[low];
  return slope * (timestep - static_cast<double>(low)) + sigmas_[low];
}

double SigmaTable::to_timestep(double sigma) const {
  if (log_sigmas_.size() == 1) return 0;
  double log_sigma = std::log(std::max(sigma, 1e-10));
  size_t low = log_sigmas_.size() - 2;
  while (low > 0 && log_sigma - log_sigmas_[low] < 0) --low;
  float span = log_sigmas_[low] - log_sigmas_[low + 1];
  if (!(span < 0)) return static_cast<double>(low);
  double w = std::clamp((log_sigmas_[low] - log_sigma) / span, 0.0, 1.0);
  return (1 - w) * static_cast<double>(low) + w * static_cast<double>(low + 1);
}

std::vector<double> SigmaTable::at_timesteps(const std::vector<double>& timesteps) const {
  std::vector<double> sigmas;
  for (auto timestep : timesteps) sigmas.push_back(at_timestep(timestep));
  return sigmas;
}

std::vector<double> SigmaTable::to_timesteps(const std::vector<double>& sigmas) const {
  std::vector<double> timesteps;
  for (auto sigma : sigmas) timesteps.push_back(to_timestep(sigma));
  return timesteps;
}

namespace {

struct SigmaRange {
  double most, least;
};

// The config's sigma_max and sigma_min. Each of them that is missing is that of `range`.
SigmaRange sigma_range(const SchedulerConfig& config, SigmaRange range) {
  range = {config.maybe_number("sigma_max").value_or(range.most),
           config.maybe_number("sigma_min").value_or(range.least)};
  check(range.least > 0 && range.most >= range.least && std::isfinite(range.most), ErrorKind::unsupported,
        "{}: sigma_min is {} and sigma_max is {}; they must be finite, above 0 and in ascending order",
        config.class_name(), range.least, range.most);
  return range;
}

// Karras et al. 2022 (arXiv:2206.00364), equation 5, with rho 7.
std::vector<double> karras_sigmas(SigmaRange range, int64_t count) {
  constexpr double rho = 7;
  double most = std::pow(range.most, 1 / rho), least = std::pow(range.least, 1 / rho);
  auto sigmas = numpy_linspace(0, 1, count);
  for (auto& sigma : sigmas) sigma = std::pow(most + sigma * (least - most), rho);
  return sigmas;
}

// Evenly spaced in the logarithm.
std::vector<double> exponential_sigmas(SigmaRange range, int64_t count) {
  auto sigmas = numpy_linspace(std::log(range.most), std::log(range.least), count);
  for (auto& sigma : sigmas) sigma = std::exp(sigma);
  return sigmas;
}

// The quantiles of a beta distribution (Lee et al. 2024, arXiv:2407.12173).
std::vector<double> beta_sigmas(SigmaRange range, int64_t count) {
  constexpr double alpha = 0.6, beta = 0.6;
  auto sigmas = numpy_linspace(0, 1, count);
  for (auto& sigma : sigmas)
    sigma = range.least + boost::math::ibeta_inv(alpha, beta, 1 - sigma) * (range.most - range.least);
  return sigmas;
}

}  // namespace

std::vector<double> choose_sigmas(SigmaSchedule schedule, const SchedulerConfig& config,
                                  const std::vector<double>& sigmas, int64_t count) {
  if (schedule == SigmaSchedule::from_timesteps) return sigmas;
  auto range = sigma_range(config, {.most = sigmas.front(), .least = sigmas.back()});
  switch (schedule) {
    case SigmaSchedule::karras: return karras_sigmas(range, count);
    case SigmaSchedule::exponential: return exponential_sigmas(range, count);
    default: return beta_sigmas(range, count);
  }
}

Tensor close_sigmas(const SchedulerConfig& config, const SigmaTable& table, std::vector<double> sigmas) {
  sigmas.push_back(config.text("final_sigmas_type") == "zero" ? 0 : table.least());
  return to_float32(sigmas);
}

// The quotient of two polynomials of degree 5 in the mantissa, which is scaled to sqrt(1/2) … sqrt(2).
float numpy_log(float x) {
  static constexpr float kNumerator[]{2.589979117907922693523e-02f, 3.808837741388407920751e-01f,
                                      1.480000633576506585156e+00f, 2.112677543073053063722e+00f,
                                      9.999999999999998702752e-01f, 0.0f};
  static constexpr float kDenominator[]{5.875095403124574342950e-03f, 1.546476374983906719538e-01f,
                                        9.864942958519418960339e-01f, 2.453006071784736363091e+00f,
                                        2.612677543073109236779e+00f, 1.0f};
  int exponent = 0;
  float mantissa = 2 * std::frexp(x, &exponent);
  exponent -= 1;
  if (mantissa > std::numbers::sqrt2_v<float>) mantissa /= 2, exponent += 1;
  float z = mantissa - 1, numerator = 0, denominator = 0;
  for (auto c : kNumerator) numerator = std::fma(numerator, z, c);
  for (auto c : kDenominator) denominator = std::fma(denominator, z, c);
  return std::fma(static_cast<float>(exponent), std::numbers::ln2_v<float>, numerator / denominator);
}

}  // namespace lora
