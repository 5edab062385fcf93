// Trajectory Consistency Distillation's strategic stochastic sampling (Zheng et al. 2024, arXiv:2402.19159, algorithm
// 4). The step option eta is the paper's gamma.
#include <ATen/ATen.h>

#include "core/check.h"
#include "nn/random.h"
#include "schedulers/distilled_scheduler.h"
#include "schedulers/registry.h"

namespace lora {

namespace {

class TCDScheduler final : public DistilledScheduler {
 public:
  explicit TCDScheduler(SchedulerConfig config) : DistilledScheduler(std::move(config)) {}

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check(options.eta >= 0 && options.eta <= 1, ErrorKind::usage, "TCDScheduler: eta is {}; it must be from 0 to 1",
          options.eta);
    check_step_inputs(model_output, sample);
    auto i = steps_.index(timestep);
    bool last = i + 1 == steps_.count();
    auto prev = last ? at::scalar_tensor(0, at::kLong) : steps_.timesteps()[i + 1];
    auto s = at::floor((1 - options.eta) * prev).to(at::kLong);
    auto alpha_bar = alphas_cumprod_[table_index(timestep, trained_)];
    auto alpha_bar_s = alphas_cumprod_[s.item<int64_t>()], alpha_bar_prev = alphas_cumprod_[prev.item<int64_t>()];

    auto [x0, epsilon] = predict_clean_and_noise(prediction_, model_output, sample, alpha_bar);
    auto prev_sample = alpha_bar_s.sqrt() * x0 + (1 - alpha_bar_s).sqrt() * epsilon;
    if (options.eta > 0 && !last) {
      auto noise =
          randn_tensor(model_output.sizes(), options.generators, prev_sample.scalar_type(), model_output.device());
      auto kept = alpha_bar_prev / alpha_bar_s;
      prev_sample = kept.sqrt() * prev_sample + (1 - kept).sqrt() * noise;
    }
    steps_.advance();
    return {prev_sample, {}};
  }

  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<TCDScheduler>(config_); }
};

}  // namespace

SchedulerClass tcd_scheduler() {
  auto fields =
      concat({beta_fields(0.00085, 0.012, "scaled_linear"),
              zero_snr_fields(),
              prediction_fields({"epsilon", "sample", "v_prediction"}),
              {{.name = "original_inference_steps", .fallback = 50, .least = 1, .most = 1e5}},
              // As in the reference, these have no effect.
              spacing_fields("leading"),
              thresholding_fields(),
              clip_fields(false),
              {{.name = "set_alpha_to_one", .fallback = true}, {.name = "timestep_scaling", .fallback = 10.0}}});
  return scheduler_class<TCDScheduler>("TCDScheduler", fields);
}

}  // namespace lora
