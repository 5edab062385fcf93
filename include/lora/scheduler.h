#pragma once
// Noise schedulers, under diffusers' names. One object serves one run at a time; clone() gives a fresh one of the same
// config, so that concurrent runs share nothing.
#include <ATen/core/Generator.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "lora/tensor.h"

namespace lora {

struct SchedulerOutput {
  Tensor prev_sample;           // the sample at the next timestep
  Tensor pred_original_sample;  // the predicted clean sample; undefined where the scheduler has none (PNDM, DPM-Solver)
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
  // Short names for a command line: ddim, pndm, euler, euler_ancestral, dpmpp_2m, dpmpp_2m_karras, lcm.
  static std::vector<std::string> names();

  // Starts a run of num_inference_steps. Throws Error{usage} where it is not in 1 … num_train_timesteps, or what else
  // the config allows.
  virtual void set_timesteps(int num_inference_steps) = 0;
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
  virtual Tensor scale_model_input(const Tensor& sample, const Tensor& timestep) = 0;
  // One step: model_output and sample of one shape [N, …], timestep an entry of timesteps(), in order. Throws
  // Error{usage} before set_timesteps() and after the last step.
  virtual SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                               const SchedulerStepOptions& options = {}) = 0;
  // Noises clean samples to `timesteps` (one an image, or one for all), for image-to-image.
  virtual Tensor add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const = 0;
  // 1 where one call of step() advances one timestep; 2 for second-order schedulers.
  virtual int order() const { return 1; }

  virtual std::string class_name() const = 0;
  // The whole config as JSON text, `_class_name` included; `_use_default_values` lists the fields that were not given,
  // so that from_config() to another class lets that class choose them.
  virtual std::string config() const = 0;
  virtual std::unique_ptr<Scheduler> clone() const = 0;
};

}  // namespace lora
