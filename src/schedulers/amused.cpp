// aMUSEd's masked tokens (Patil et al. 2024, arXiv:2401.01808; Chang et al. 2022, arXiv:2202.04200). Each step draws
// every masked token. Then it masks the tokens with the lowest confidence again, fewer in each step.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include <limits>
#include <numbers>

#include "core/check.h"
#include "schedulers/configured_scheduler.h"
#include "schedulers/noise.h"
#include "schedulers/registry.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

constexpr int64_t kMostSteps = 1000;  // useful runs are far shorter
constexpr double kTiny = 1e-20;       // replaces 0 before a logarithm

Device drawn_on(const at::Generator& generator, const Tensor& like) {
  return generator.defined() ? generator.device() : like.device();
}

std::optional<at::Generator> maybe(const at::Generator& generator) {
  return generator.defined() ? std::optional(generator) : std::nullopt;
}

// One draw from each row's distribution: [N, places, tokens] → int64 [N, places].
Tensor draw_tokens(const Tensor& probabilities, const at::Generator& generator) {
  auto rows = probabilities.flatten(0, 1).to(drawn_on(generator, probabilities));
  if (rows.is_cpu()) rows = rows.to(at::kFloat);  // the CPU does not have multinomial in half precision
  auto drawn = at::multinomial(rows, 1, /*replacement=*/false, maybe(generator));
  return drawn.to(probabilities.device()).view(probabilities.sizes().slice(0, 2));
}

Tensor gumbel_noise(const Tensor& like, const at::Generator& generator) {
  auto uniform =
      at::empty_like(like, like.options().device(drawn_on(generator, like))).uniform_(0, 1, maybe(generator));
  return -at::log((-at::log(uniform.to(like.device()).clamp_min(kTiny))).clamp_min(kTiny));
}

// The largest number of a tensor's dtype.
double largest(const Tensor& t) {
  double value = 0;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, t.scalar_type(), "AmusedScheduler",
                                  [&] { value = static_cast<double>(std::numeric_limits<scalar_t>::max()); });
  return value;
}

class AmusedScheduler final : public ConfiguredScheduler {
 public:
  explicit AmusedScheduler(SchedulerConfig config) : ConfiguredScheduler(std::move(config), kNoTraining) {
    auto id = config_.maybe_number("mask_token_id");
    check(id.has_value(), ErrorKind::bad_file, "AmusedScheduler: the config does not have mask_token_id");
    mask_token_id_ = static_cast<int64_t>(*id);
  }

  void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) override {
    check_run(num_inference_steps, kMostSteps, options, {"temperature"});
    auto [first, last] = options.temperature.value_or(std::pair(2.0, 0.0));
    steps_.start(at::arange(num_inference_steps).flip(0));
    temperatures_ = at::linspace(first, last, num_inference_steps, at::kFloat);
  }

  void set_begin_index(int) override {}  // a step depends only on its timestep

  SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                          const SchedulerStepOptions& options) override {
    check(steps_.count() > 0, ErrorKind::usage, "AmusedScheduler: call set_timesteps before step");
    check_inputs(model_output, sample, options);
    auto t = table_index(timestep, steps_.count());
    const auto starting = starting_ratios(options, sample.size(0));
    if (options.generators.size() <= 1)
      return unmask(model_output, t, sample, starting,
                    options.generators.empty() ? at::Generator() : options.generators.front());

    std::vector<Tensor> prev, drawn;
    for (int64_t i = 0; i < sample.size(0); ++i) {
      auto image = unmask(model_output.narrow(0, i, 1), t, sample.narrow(0, i, 1), starting.narrow(0, i, 1),
                          options.generators[size_t(i)]);
      prev.push_back(image.prev_sample);
      drawn.push_back(image.pred_original_sample);
    }
    return {at::cat(prev), at::cat(drawn)};
  }

  // Masks the tokens whose `noise` is below the mask ratio of the timestep.
  Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const override {
    check(steps_.count() > 0, ErrorKind::usage, "AmusedScheduler: call set_timesteps before add_noise");
    check_noise_inputs({original_samples, noise, timesteps});
    std::vector<Tensor> ratios;
    auto flat = timesteps.flatten();
    for (int64_t i = 0; i < flat.numel(); ++i) ratios.push_back(mask_ratio(table_index(flat[i], steps_.count())));
    return original_samples.masked_fill(noise < per_image(at::cat(ratios), noise), mask_token_id_);
  }

  std::optional<int64_t> mask_token_id() const override { return mask_token_id_; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<AmusedScheduler>(config_); }

 private:
  static void check_inputs(const Tensor& model_output, const Tensor& sample, const SchedulerStepOptions& options) {
    check(sample.dim() == 3 && model_output.dim() == 4 && sample.size(0) == model_output.size(0) &&
              sample.sizes().slice(1) == model_output.sizes().slice(2),
          ErrorKind::bad_shape,
          "AmusedScheduler: model_output is {}, sample is {}; they must be [N, codebook_size, h, w] and [N, h, w]",
          c10::str(model_output.sizes()), c10::str(sample.sizes()));
    check(model_output.is_floating_point() && sample.scalar_type() == at::kLong, ErrorKind::usage,
          "AmusedScheduler: model_output is {}, sample is {}; they must be floating-point and int64",
          to_string(model_output.scalar_type()), to_string(sample.scalar_type()));
    check(options.generators.size() <= 1 || int64_t(options.generators.size()) == sample.size(0), ErrorKind::usage,
          "AmusedScheduler: there are {} generators for {} images; give one for the whole batch, or one for each image",
          options.generators.size(), sample.size(0));
  }

  // float32 [N, 1].
  static Tensor starting_ratios(const SchedulerStepOptions& options, int64_t images) {
    const auto& ratios = options.starting_mask_ratio;
    if (ratios.empty()) return at::ones({images, 1});
    check(ratios.size() == 1 || int64_t(ratios.size()) == images, ErrorKind::usage,
          "AmusedScheduler: there are {} starting mask ratios for {} images; give one for the whole batch, or one for "
          "each image",
          ratios.size(), images);
    return at::tensor(ratios, at::kFloat).unsqueeze(1).expand({images, 1});
  }

  // One step of images that draw from one generator.
  SchedulerOutput unmask(const Tensor& model_output, int64_t t, const Tensor& sample, const Tensor& starting,
                         const at::Generator& generator) const {
    auto tokens = sample.flatten(1);
    auto unknown = tokens == mask_token_id_;
    auto probabilities = model_output.flatten(2).transpose(1, 2).softmax(-1);
    auto drawn = at::where(unknown, draw_tokens(probabilities, generator), tokens);

    auto prev = drawn;
    if (t > 0) {
      auto masked = least_sure(probabilities, drawn, unknown, t, starting, generator);
      prev = drawn.masked_fill(masked, mask_token_id_);
    }
    return {prev.view(sample.sizes()), drawn.view(sample.sizes())};
  }

  // The fraction of the tokens that is masked after the step at timestep t: [1].
  Tensor mask_ratio(int64_t t) const {
    auto steps = steps_.count();
    auto done = at::tensor({steps - t}) / steps;
    return config_.text("masking_schedule") == "cosine" ? at::cos(done * std::numbers::pi / 2) : 1 - done;
  }

  // The tokens to mask again, bool [N, places]. The schedule gives their number, at least one and fewer than before.
  // Chosen are the tokens with the lowest log probability plus Gumbel noise. Known tokens have the highest confidence.
  Tensor least_sure(const Tensor& probabilities, const Tensor& drawn, const Tensor& unknown, int64_t t,
                    const Tensor& starting, const at::Generator& generator) const {
    auto count = (unknown.size(1) * (starting * mask_ratio(t))).floor().to(unknown.device());
    count = at::minimum(unknown.sum(-1, /*keepdim=*/true) - 1, count).clamp_min(1).to(at::kLong);

    auto chosen = probabilities.gather(-1, drawn.unsqueeze(-1)).squeeze(-1);
    chosen = at::where(unknown, chosen, largest(chosen));
    auto temperature = temperatures_[steps_.count() - 1 - t].view({1, 1}).to(chosen.device());
    auto confidence = at::log(chosen.clamp_min(kTiny)) + temperature * gumbel_noise(chosen, generator);
    return confidence < std::get<0>(confidence.sort(-1)).gather(1, count);
  }

  int64_t mask_token_id_ = 0;
  Tensor temperatures_;  // float32, one for each step
};

}  // namespace

SchedulerClass amused_scheduler() {
  SchedulerFields fields{{.name = "mask_token_id",
                          .fallback = nullptr,
                          .type = Json::value_t::number_integer,
                          .least = 0,
                          .most = std::numeric_limits<int32_t>::max()},
                         {.name = "masking_schedule", .fallback = "cosine", .supported = {"cosine", "linear"}}};
  return scheduler_class<AmusedScheduler>("AmusedScheduler", fields);
}

}  // namespace lora
