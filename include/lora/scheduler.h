#pragma once
// Noise schedulers, under diffusers' names. Threads: one object serves one run of one thread at a time; clone() gives a
// fresh one of the same config, so that concurrent runs share nothing.
//
// AmusedScheduler is for tokens in place of latents (arXiv:2401.01808): samples are int64 [N, h, w], masked places hold
// the config's mask_token_id, model outputs are logits [N, codebook_size, h, w]. It takes one generator at most.
#include <ATen/core/Generator.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// What a run may be given besides its length. Each is one class's own; the others refuse it with Error{usage}.
struct SetTimestepsOptions {
  // FlowMatchEulerDiscreteScheduler: how far the noise levels are shifted for the picture's size. Wanted where the
  // config says use_dynamic_shifting, without effect where it does not.
  std::optional<double> mu;
  // FlowMatchEulerDiscreteScheduler: the noise levels before they are shifted, highest first, one a step.
  std::vector<double> sigmas;
  // AmusedScheduler: how much chance decides which tokens stay, at the first step and at the last; {2, 0} for none.
  // diffusers' single number t is {t, 0.01}.
  std::optional<std::pair<double, double>> temperature;
};

struct SchedulerOutput {
  Tensor prev_sample;           // the sample at the next timestep
  Tensor pred_original_sample;  // the predicted clean sample; undefined where the scheduler has none (PNDM, DPM-Solver,
                                // FlowMatchEuler)
};

struct SchedulerStepOptions {
  double eta = 0.0;                       // DDIM: 0 is deterministic, 1 is DDPM
  std::vector<at::Generator> generators;  // none: torch's default; one: for the whole batch; else one an image
};

class Scheduler {
 public:
  virtual ~Scheduler() = default;

  // From a scheduler_config.json's text. Its `_class_name` names the class, or `class_name` overrides it, as diffusers'
  // `EulerDiscreteScheduler.from_config(pipe.scheduler.config)`. Class names are diffusers' ("DDIMScheduler"); for
  // `class_name`, the short names of names() do as well. Missing fields take diffusers' defaults; fields that only
  // other schedulers know, and those that start with '_', are kept in config() but have no effect. Throws
  // Error{unsupported} naming an unknown class (with the known ones), an unknown field or an unsupported value,
  // Error{bad_file} for what is no config.
  static std::unique_ptr<Scheduler> from_config(const std::string& json, const std::string& class_name = "");
  // From a folder that holds scheduler_config.json. Throws Error{not_found} where it does not.
  static std::unique_ptr<Scheduler> from_pretrained(const std::filesystem::path& folder);
  // Short names for a command line: ddim, pndm, euler, euler_ancestral, dpmpp_2m, dpmpp_2m_karras, lcm,
  // flow_match_euler. AmusedScheduler has none: no other class stands in for it, nor it for another.
  static std::vector<std::string> names();

  // Starts a run of num_inference_steps. Throws Error{usage} where it is not in 1 … num_train_timesteps, or what else
  // the config allows, and for options that the class or the config does not take, or lacks.
  void set_timesteps(int num_inference_steps, const SetTimestepsOptions& options = {});
  // The timesteps of the run, highest noise first, on the CPU: int64 or float32, as diffusers has them; empty before
  // set_timesteps(). May hold more entries than the number of steps asked for (PNDM's warm-up).
  virtual const Tensor& timesteps() const = 0;
  // For image-to-image: the run's first step is that of timesteps()[begin_index]. Without it the first call's timestep
  // tells. Call it between set_timesteps() and the run, where diffusers' pipelines do: it matters where timesteps
  // repeat.
  virtual void set_begin_index(int begin_index) = 0;
  // The standard deviation that the first sample's noise must have.
  virtual double init_noise_sigma() const = 0;
  // What the model wants to see of `sample`; call it before each step().
  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep);
  // One step: model_output and sample of one shape [N, …], timestep an entry of timesteps(), in order. Throws
  // Error{usage} before set_timesteps() and after the last step.
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const SchedulerStepOptions& options = {});
  // Noises clean samples to `timesteps` (one an image, or one for all), for image-to-image. `noise` is standard normal;
  // AmusedScheduler, which masks tokens at random, wants it uniform in [0, 1).
  Tensor add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const;
  // 1 where one call of step() advances one timestep; 2 for second-order schedulers.
  virtual int order() const { return 1; }

  virtual std::string class_name() const = 0;
  // The whole config as JSON text, `_class_name` included; `_use_default_values` lists the fields that were not given,
  // so that from_config() to another class lets that class choose them.
  virtual std::string config() const = 0;
  virtual std::unique_ptr<Scheduler> clone() const = 0;

 protected:
  // What each class does of the calls above, whose exceptions leave the library as Error.
  virtual void do_set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) = 0;
  virtual Tensor do_scale_model_input(const Tensor& sample, const Tensor& timestep) = 0;
  virtual SchedulerOutput do_step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                                  const SchedulerStepOptions& options) = 0;
  virtual Tensor do_add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const = 0;
};

}  // namespace lora
