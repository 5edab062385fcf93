// Pseudo Numerical Methods for Diffusion Models (Liu et al. 2022, arXiv:2202.09778): pseudo Runge-Kutta steps (PRK,
// algorithm 1), then the pseudo linear multistep method (PLMS, algorithm 2).
#include <ATen/ATen.h>

#include <algorithm>

#include "core/check.h"
#include "schedulers/betas.h"
#include "schedulers/configured_scheduler.h"
#include "schedulers/noise.h"
#include "schedulers/prediction.h"
#include "schedulers/registry.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

constexpr int64_t kOrder = 4;              // PRK needs four model outputs in each step; PLMS uses the last four
constexpr int64_t kPrkCalls = 3 * kOrder;  // three steps give PLMS its first outputs

class PNDMScheduler final : public ConfiguredScheduler {
 public:
  explicit PNDMScheduler(SchedulerConfig config)
      : ConfiguredScheduler(std::move(config)),
        skip_prk_steps_(config_.flag("skip_prk_steps")),
        prediction_(prediction_type(config_)),
        alphas_cumprod_(alphas_cumprod(config_)),
        final_alpha_cumprod_(final_alpha_cumprod(config_, alphas_cumprod_)) {}

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, trained_, options);
    check(skip_prk_steps_ || num_inference_steps >= kOrder, ErrorKind::usage,
          "PNDMScheduler: num_inference_steps is {}; it must be from {} to {}, unless the config sets skip_prk_steps",
          num_inference_steps, kOrder, trained_);
    auto spaced = table_timesteps(config_, num_inference_steps);
    stride_ = trained_ / num_inference_steps;
    steps_.start(skip_prk_steps_ ? plms_timesteps(spaced) : prk_timesteps(spaced));
    calls_ = 0;
    outputs_.clear();
    prk_output_.reset();
  }

  void set_begin_index(int) override {}  // a step depends on its timestep and on the number of steps before it

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions&) override {
    check(stride_ > 0, ErrorKind::usage, "PNDMScheduler: call set_timesteps before step");
    check_step_inputs(model_output, sample);
    auto t = table_index(timestep, trained_);
    auto prev_sample =
        !skip_prk_steps_ && calls_ < kPrkCalls ? step_prk(model_output, t, sample) : step_plms(model_output, t, sample);
    ++calls_;
    return {prev_sample, {}};
  }

  Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const override {
    return add_noise_by_alphas(alphas_cumprod_, {original_samples, noise, timesteps});
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<PNDMScheduler>(config_); }

 private:
  // The second timestep is there twice, because PLMS begins with a step of Heun's method.
  static Tensor plms_timesteps(const Tensor& spaced) { return at::cat({spaced.slice(0, 0, 2), spaced.slice(0, 1)}); }

  // Each of the first three steps has four timesteps: its start, its middle twice, and its end. The end is the start of
  // the next step.
  Tensor prk_timesteps(const Tensor& spaced) const {
    const auto* t = spaced.const_data_ptr<int64_t>();
    std::vector<int64_t> timesteps;
    for (int64_t i = 0; i < kOrder - 1; ++i) {
      auto middle = t[i + 1] + stride_ / 2;
      timesteps.insert(timesteps.end(), {t[i], middle, middle, t[i + 1]});
    }
    return at::cat({at::tensor(timesteps), spaced.slice(0, kOrder - 1)});
  }

  Tensor step_prk(const Tensor& output, int64_t t, const Tensor& sample) {
    auto stage = calls_ % kOrder;
    auto t_prev = t - (stage % 2 ? 0 : stride_ / 2);
    auto t_start = timesteps()[calls_ - stage].item<int64_t>();
    if (stage == 0) {
      outputs_.push_back(output);
      start_sample_ = sample;
    }
    auto slope = output;
    if (stage == kOrder - 1) {
      slope = prk_output_ + 1.0 / 6 * output;
      prk_output_.reset();
    } else {
      auto term = (stage == 0 ? 1.0 / 6 : 1.0 / 3) * output;
      prk_output_ = prk_output_.defined() ? prk_output_ + term : term;
    }
    return transfer(start_sample_, slope, t_start, t_prev);
  }

  Tensor step_plms(const Tensor& output, int64_t t, const Tensor& sample) {
    bool heun_end = calls_ == 1;
    if (!heun_end) {
      if (outputs_.size() == kOrder) outputs_.erase(outputs_.begin());
      outputs_.push_back(output);
    }
    if (calls_ == 0) start_sample_ = sample;
    if (heun_end) return transfer(start_sample_, (output + outputs_.back()) / 2, t + stride_, t);
    return transfer(sample, multistep_slope(), t, t - stride_);
  }

  // The Adams-Bashforth method over the available outputs.
  Tensor multistep_slope() const {
    auto e = [&](size_t back) { return outputs_[outputs_.size() - back]; };
    switch (outputs_.size()) {
      case 1: return e(1);
      case 2: return (3 * e(1) - e(2)) / 2;
      case 3: return (23 * e(1) - 16 * e(2) + 5 * e(3)) / 12;
      default: return 1.0 / 24 * (55 * e(1) - 59 * e(2) + 37 * e(3) - 9 * e(4));
    }
  }

  // Equation (9): from x_t to x_(t_prev) along `slope`.
  Tensor transfer(const Tensor& sample, Tensor slope, int64_t t, int64_t t_prev) const {
    check(t < trained_, ErrorKind::usage, "PNDMScheduler: a run must start with the first entry of timesteps()");
    auto alpha_bar = alphas_cumprod_[t];
    auto alpha_bar_prev = t_prev >= 0 ? alphas_cumprod_[t_prev] : final_alpha_cumprod_;
    auto beta_bar = 1 - alpha_bar, beta_bar_prev = 1 - alpha_bar_prev;
    if (prediction_ == PredictionType::v_prediction) slope = alpha_bar.pow(0.5) * slope + beta_bar.pow(0.5) * sample;
    auto denominator = alpha_bar * beta_bar_prev.pow(0.5) + (alpha_bar * beta_bar * alpha_bar_prev).pow(0.5);
    return (alpha_bar_prev / alpha_bar).pow(0.5) * sample - (alpha_bar_prev - alpha_bar) * slope / denominator;
  }

  int64_t stride_ = 0;
  bool skip_prk_steps_;
  PredictionType prediction_;
  Tensor alphas_cumprod_, final_alpha_cumprod_;  // float32: [trained_], []

  int64_t calls_ = 0;
  std::vector<Tensor> outputs_;       // the last kOrder outputs that the methods use, oldest first
  Tensor prk_output_, start_sample_;  // of the step in progress
};

}  // namespace

SchedulerClass pndm_scheduler() {
  auto fields =
      concat({beta_fields(0.0001, 0.02, "linear"),
              spacing_fields("leading"),
              prediction_fields({"epsilon", "v_prediction"}),
              {{.name = "skip_prk_steps", .fallback = false}, {.name = "set_alpha_to_one", .fallback = false}}});
  return scheduler_class<PNDMScheduler>("PNDMScheduler", fields);
}

}  // namespace lora
