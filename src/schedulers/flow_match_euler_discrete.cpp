// Euler's method for flow matching (Lipman et al. 2022, arXiv:2210.02747; Esser et al. 2024, arXiv:2403.03206). The
// sample is (1 - sigma) · clean + sigma · noise. The model predicts its velocity.
#include <ATen/ATen.h>

#include <cmath>

#include "core/check.h"
#include "nn/random.h"
#include "schedulers/configured_scheduler.h"
#include "schedulers/noise.h"
#include "schedulers/registry.h"
#include "schedulers/sigmas.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

class FlowMatchEulerDiscreteScheduler final : public ConfiguredScheduler {
 public:
  explicit FlowMatchEulerDiscreteScheduler(SchedulerConfig config)
      : ConfiguredScheduler(std::move(config)), schedule_(sigma_schedule(config_)) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options, {"mu", "sigmas"});
    check(
        options.mu || !config_.flag("use_dynamic_shifting"), ErrorKind::usage,
        "FlowMatchEulerDiscreteScheduler: the config sets use_dynamic_shifting, which needs mu; give mu, the shift for "
        "the size of the image");
    check_sigmas(options.sigmas, num_inference_steps);

    auto mu = options.mu.value_or(0);
    // The reference keeps given levels in float32, and its own levels in float64.
    auto sigmas = options.sigmas.empty() ? shift(even_sigmas(num_inference_steps), mu)
                                         : shift(std::vector<float>(options.sigmas.begin(), options.sigmas.end()), mu);
    sigmas_ = to_float32(choose_sigmas(schedule_, config_, sigmas, num_inference_steps));
    if (config_.flag("invert_sigmas")) sigmas_ = 1 - sigmas_;
    steps_.start(sigmas_ * trained_);
    sigmas_ = at::cat({sigmas_, at::full({1}, config_.flag("invert_sigmas") ? 1.0f : 0.0f)});
  }

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    auto sigma = sigmas_[i], next = sigmas_[i + 1];
    auto x = sample.to(at::kFloat);
    Tensor prev_sample;
    if (config_.flag("stochastic_sampling")) {
      auto noise = randn_tensor(x.sizes(), options.generators, x.scalar_type(), x.device());
      prev_sample = (1 - next) * (x - sigma * model_output) + next * noise;
    } else {
      prev_sample = x + (next - sigma) * model_output;
    }
    steps_.advance();
    return {prev_sample.to(model_output.scalar_type()), {}};
  }

  Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const override {
    check_noise_inputs({original_samples, noise, timesteps});
    auto sigma = per_image(sigmas_.index_select(0, steps_.indices_for_noise(timesteps)), original_samples);
    return sigma * noise + (1 - sigma) * original_samples;
  }

  std::optional<double> mu_for(int64_t image_tokens) const override {
    if (!config_.flag("use_dynamic_shifting")) return std::nullopt;
    auto from = config_.number("base_image_seq_len"), to = config_.number("max_image_seq_len");
    auto low = config_.number("base_shift"), high = config_.number("max_shift");
    return low + (static_cast<double>(image_tokens) - from) * (high - low) / (to - from);
  }

  std::unique_ptr<Scheduler> clone() const override {
    return std::make_unique<FlowMatchEulerDiscreteScheduler>(config_);
  }

 private:
  void check_sigmas(const std::vector<double>& sigmas, int64_t count) const {
    check(sigmas.empty() || static_cast<int64_t>(sigmas.size()) == count, ErrorKind::usage,
          "FlowMatchEulerDiscreteScheduler: there are {} sigmas for {} steps; give one for each step", sigmas.size(),
          count);
    for (auto sigma : sigmas)
      check(sigma > 0 && sigma <= 1, ErrorKind::usage,
            "FlowMatchEulerDiscreteScheduler: sigmas contains {}; all must be above 0 and up to 1", sigma);
  }

  // Evenly spaced from the highest to the lowest level of training. The levels of training are shifted already. As in
  // the reference, shift() shifts them a second time.
  std::vector<double> even_sigmas(int64_t count) const {
    auto trained = static_cast<double>(trained_);
    auto most = 1.0f, least = 1.0f / static_cast<float>(trained_);
    if (!config_.flag("use_dynamic_shifting")) most = shifted(most), least = shifted(least);
    auto sigmas = numpy_linspace(most * trained, least * trained, count);
    for (auto& sigma : sigmas) sigma /= trained;
    return sigmas;
  }

  // Shifted by the config's factor. The operations and their precision are those of the reference.
  template <class T>
  T shifted(T sigma) const {
    auto shift = config_.number("shift");
    return static_cast<T>(shift) * sigma / (1 + static_cast<T>(shift - 1) * sigma);
  }

  // Moves more steps to the high levels, by the config's factor or by mu.
  template <class T>
  std::vector<double> shift(std::vector<T> sigmas, double mu) const {
    if (config_.flag("use_dynamic_shifting")) {
      auto weight = static_cast<T>(config_.text("time_shift_type") == "exponential" ? std::exp(mu) : mu);
      check(weight > 0 && std::isfinite(weight), ErrorKind::usage,
            "FlowMatchEulerDiscreteScheduler: mu is {}, which shifts by {}; the shift must be finite and above 0", mu,
            weight);
      for (auto& sigma : sigmas) sigma = weight / (weight + (1 / sigma - 1));
    } else {
      for (auto& sigma : sigmas) sigma = shifted(sigma);
    }
    if (auto terminal = config_.maybe_number("shift_terminal").value_or(0); terminal != 0)
      stretch_to_terminal(sigmas, terminal, class_name());
    return {sigmas.begin(), sigmas.end()};
  }

  SigmaSchedule schedule_;
  Tensor sigmas_;  // float32, on the CPU: the levels of the run, and the level after its last step
};

}  // namespace

SchedulerClass flow_match_euler_discrete_scheduler() {
  SchedulerFields fields{
      {.name = "num_train_timesteps", .fallback = 1000, .least = 1, .most = 1e5},
      {.name = "shift", .fallback = 1.0, .least = 1e-3, .most = 1e3},
      {.name = "use_dynamic_shifting", .fallback = false},
      // mu_for() reads these four.
      {.name = "base_shift", .fallback = 0.5},
      {.name = "max_shift", .fallback = 1.15},
      {.name = "base_image_seq_len", .fallback = 256},
      {.name = "max_image_seq_len", .fallback = 4096},
      {.name = "invert_sigmas", .fallback = false},
      {.name = "shift_terminal", .fallback = nullptr, .type = Json::value_t::number_float, .least = 0, .most = 0.999},
      {.name = "time_shift_type", .fallback = "exponential", .supported = {"exponential", "linear"}},
      {.name = "stochastic_sampling", .fallback = false}};
  return scheduler_class<FlowMatchEulerDiscreteScheduler>("FlowMatchEulerDiscreteScheduler",
                                                          concat({fields, sigma_fields()}));
}

}  // namespace lora
