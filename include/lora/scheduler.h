#pragma once
// Noise schedulers, under diffusers' names.
#include <ATen/core/Generator.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// Options of a run besides its length. Each one belongs to one class. The other classes refuse it with Error{usage}.
struct SetTimestepsOptions {
  // FlowMatchEulerDiscreteScheduler: how far the noise levels are shifted. Scheduler::mu_for() computes it from the
  // size of the image. The run needs it if the config sets use_dynamic_shifting. Otherwise it has no effect.
  std::optional<double> mu;
  // FlowMatchEulerDiscreteScheduler: the noise levels before the shift, highest first, one for each step.
  std::vector<double> sigmas;
  // AmusedScheduler: the amount of randomness in the choice of the tokens that stay, at the first and the last step.
  // The default is {2, 0}. A single number t in diffusers is {t, 0.01} here.
  std::optional<std::pair<double, double>> temperature;
};

struct SchedulerOutput {
  Tensor prev_sample;           // the sample at the next timestep
  Tensor pred_original_sample;  // the predicted clean sample; undefined for classes that do not predict it
};

struct SchedulerStepOptions {
  // DDIM: 0 is deterministic, 1 is DDPM. TCD: 0 is deterministic, 1 has the most noise.
  double eta = 0.0;
  // Empty: torch's default generator. One: for the whole batch. Otherwise: one for each image.
  std::vector<at::Generator> generators;
  // AmusedScheduler, for inpainting: the share of the tokens that was masked before the first step. One for the whole
  // batch, or one for each image. Empty: 1. The other classes do not read it.
  std::vector<double> starting_mask_ratio;
};

// Threads: an object serves one run at a time. Calls on one object must not overlap. Concurrent runs take a clone()
// each; clones share nothing that changes.
//
// AmusedScheduler works on tokens instead of latents (arXiv:2401.01808). Its samples are int64 [N, h, w], in which
// masked tokens have the value of the config's mask_token_id. Its model outputs are logits [N, codebook_size, h, w].
class Scheduler {
 public:
  virtual ~Scheduler() = default;

  // Makes a scheduler from the text of a scheduler_config.json. `class_name` names the class; if it is empty, the
  // config's `_class_name` does. This is diffusers' `EulerDiscreteScheduler.from_config(pipe.scheduler.config)`. Class
  // names are those of diffusers ("DDIMScheduler"). `class_name` may also be one of names(), or what A1111, ComfyUI or
  // kohya's scripts call the same sampler ("DPM++ 2M Karras"). Missing fields get the defaults of diffusers. Fields
  // that only other schedulers know, and fields that start with '_', stay in config() and have no effect. Throws
  // Error{usage} for an unknown `class_name`. Throws Error{unsupported} that names a class of the config that is
  // unknown, an unknown field or an unsupported value. Throws Error{bad_file} if the text is not a scheduler config.
  static std::unique_ptr<Scheduler> from_config(const std::string& json, const std::string& class_name = "");
  // Makes a scheduler from a folder with a scheduler_config.json. Throws Error{not_found} if the file does not exist.
  static std::unique_ptr<Scheduler> from_pretrained(const std::filesystem::path& folder);
  // Short names for command lines: ddim, pndm, euler, euler_ancestral, heun, dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde,
  // dpmpp_sde, dpmpp_2s, deis, unipc, lcm, tcd, flow_match_euler. If the config of a class chooses the noise levels,
  // its names also end in _karras, _exponential or _beta ("dpmpp_2m_karras"). AmusedScheduler does not have a short
  // name, because no other class can replace it.
  static std::vector<std::string> names();

  // Starts a run of num_inference_steps. Throws Error{usage} if the number is not in 1 … num_train_timesteps or the
  // config allows fewer. Throws Error{usage} for an option that the class or the config does not take, or that is
  // missing.
  void set_timesteps(int num_inference_steps, const SetTimestepsOptions& options = {});
  // The timesteps of the run, highest noise first, on the CPU. The dtype is that of diffusers: int64, float32 or
  // float64. Empty before set_timesteps(). PNDM has more timesteps than steps, because of its warm-up. A second-order
  // scheduler has two for each step, and one for the last step.
  virtual const Tensor& timesteps() const = 0;
  // For image-to-image: the run starts at timesteps()[begin_index]. Call it after set_timesteps() and before the first
  // step. Without this call, the timestep of the first step() is looked up, which is ambiguous if timesteps repeat.
  virtual void set_begin_index(int begin_index) = 0;
  // The standard deviation that the noise of the first sample must have.
  virtual double init_noise_sigma() const = 0;
  // Scales `sample` to what the model expects as its input. Call it before each step().
  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep);
  // Does one step. `model_output` and `sample` have the same shape [N, …]. `timestep` is the next entry of timesteps().
  // Throws Error{usage} before set_timesteps() and after the last step.
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const SchedulerStepOptions& options = {});
  // Adds noise to clean samples, for image-to-image. `timesteps` has one entry for each sample, or one for all. `noise`
  // is standard normal. AmusedScheduler masks random tokens instead; its `noise` is uniform in [0, 1).
  Tensor add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const;
  // How many calls of the model a step takes: 2 for Heun and DPMSolverSDE, whose last step takes 1; otherwise 1.
  virtual int order() const { return 1; }

  virtual std::string class_name() const = 0;
  // The whole config as JSON text, with `_class_name`. `_use_default_values` lists the fields that were not given, so
  // that another class can use its own defaults for them.
  virtual std::string config() const = 0;
  // The config's num_train_timesteps; nullopt for a class without this field.
  virtual std::optional<int64_t> num_train_timesteps() const { return std::nullopt; }
  // The config's mask_token_id; nullopt for all classes but AmusedScheduler.
  virtual std::optional<int64_t> mask_token_id() const { return std::nullopt; }
  // SetTimestepsOptions::mu for an image of `image_tokens` tokens (diffusers' calculate_shift). The config's
  // base_shift, max_shift, base_image_seq_len and max_image_seq_len determine it. nullopt unless the config sets
  // use_dynamic_shifting.
  virtual std::optional<double> mu_for(int64_t /*image_tokens*/) const { return std::nullopt; }
  // Makes a scheduler of the same class and config, without a run.
  virtual std::unique_ptr<Scheduler> clone() const = 0;

 protected:
  // The part of the calls above that differs between the classes. The public calls turn their exceptions into Error.
  virtual void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) = 0;
  virtual Tensor do_scale_model_input(const Tensor& sample, const Tensor& timestep) = 0;
  virtual SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                                  const SchedulerStepOptions& options) = 0;
  virtual Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const = 0;
};

}  // namespace lora
