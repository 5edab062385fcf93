#pragma once
// Noise schedulers, under diffusers' names. One object serves one run; clone() gives a fresh one of the same config.
#include <ATen/core/Generator.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "lora/tensor.h"

namespace lora {

struct SchedulerOutput {
  Tensor prev_sample;           // the sample at the next timestep
  Tensor pred_original_sample;  // the predicted clean sample, where the scheduler has one
};

struct SchedulerStepOptions {
  double eta = 0.0;                        // DDIM: 0 is deterministic, 1 is DDPM
  std::vector<at::Generator> generators;   // none: torch's default; one: for the whole batch; else one an image
};

class Scheduler {
 public:
  virtual ~Scheduler() = default;

  // From a scheduler_config.json's text. Its `_class_name` names the class, or `class_name` overrides it, as diffusers'
  // `EulerDiscreteScheduler.from_config(pipe.scheduler.config)`: then fields that only other schedulers know are passed
  // over. Class names are diffusers' ("DDIMScheduler"); the short names of names() do as well. Throws Error{unsupported}
  // naming an unknown class (with the known ones), an unknown field or an unsupported value.
  static std::unique_ptr<Scheduler> from_config(const std::string& json, const std::string& class_name = "");
  // From a folder that holds scheduler_config.json.
  static std::unique_ptr<Scheduler> from_pretrained(const std::filesystem::path& folder);
  // Short names for a command line: ddim, pndm, euler, euler_ancestral, dpmpp_2m, dpmpp_2m_karras, lcm.
  static std::vector<std::string> names();

  // Starts a run of num_inference_steps. Throws Error{usage} where it is not in 1 … num_train_timesteps.
  virtual void set_timesteps(int num_inference_steps) = 0;
  // The timesteps of the run, highest noise first: int64 or float32, as diffusers has them. May hold more entries than
  // the number of steps asked for (PNDM's warm-up).
  virtual const Tensor& timesteps() const = 0;
  // The standard deviation that the first sample's noise must have.
  virtual double init_noise_sigma() const = 0;
  virtual Tensor scale_model_input(const Tensor& sample, const Tensor& timestep) = 0;
  // One step: model_output and sample of one shape, timestep an entry of timesteps(), in order.
  virtual SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                               const SchedulerStepOptions& options = {}) = 0;
  // Noises a clean sample to `timesteps` (one an image), for image-to-image.
  virtual Tensor add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const = 0;
  // 1 where one call of step() advances one timestep; 2 for second-order schedulers.
  virtual int order() const { return 1; }

  virtual std::string class_name() const = 0;
  // The whole config as JSON text, `_class_name` included.
  virtual std::string config() const = 0;
  virtual std::unique_ptr<Scheduler> clone() const = 0;
};

}  // namespace lora
