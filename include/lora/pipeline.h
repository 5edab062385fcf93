#pragma once
// Prompts to pictures.
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lora/autoencoders.h"
#include "lora/denoisers.h"
#include "lora/image.h"
#include "lora/loaders.h"
#include "lora/scheduler.h"
#include "lora/text_encoders.h"
#include "lora/tokenizer.h"

namespace lora {

// One prompt or several; a picture for each.
struct Prompts : std::vector<std::string> {
  using std::vector<std::string>::vector;
  Prompts(const char* prompt) : vector{prompt} {}
  Prompts(std::string prompt) : vector{std::move(prompt)} {}
};

struct StepEnd {
  int step;         // from 0
  int num_steps;    // how many there will be
  Tensor timestep;  // the scheduler's
  Tensor& latents;  // [images, channels, h, w]; may be replaced
};

struct CrossAttentionKwargs {
  double scale = 1.0;  // multiplies the weight of every adapter that applies, in this call alone
};

// The arguments of diffusers' StableDiffusionPipeline.__call__, under its names and defaults.
struct StableDiffusionOptions {
  Prompts negative_prompt;  // none, one for all, or one a prompt
  int height = 0;           // pixels, a multiple of the VAE's factor (8); 0: the model's own
  int width = 0;
  int num_inference_steps = 50;
  double guidance_scale = 7.5;  // 1 or less: no guidance, half the work
  double guidance_rescale = 0.0;
  int num_images_per_prompt = 1;
  double eta = 0.0;  // DDIM's and LCM's noise share
  // One seed draws for the whole batch from one generator, as torch.Generator().manual_seed(s); one seed an image gives
  // each picture the noise that it has alone. None: a random seed.
  std::vector<uint64_t> seed;
  std::optional<int> clip_skip;  // how many of the text encoder's last layers to leave out
  Tensor latents;                // the starting noise, unscaled, in place of a seed's: [images, channels, h, w]
  Tensor prompt_embeds, negative_prompt_embeds;  // [prompts, tokens, width] in place of the prompts
  CrossAttentionKwargs cross_attention_kwargs;
  // The adapters of this call alone, in place of the active ones; what is fused stays. Other calls, on other threads
  // too, see nothing of it. None: the active ones; an empty list: no adapter.
  std::optional<std::vector<CallAdapter>> adapters;
  // Each image's own, in place of `adapters`: a list for each image of the batch.
  std::vector<std::vector<CallAdapter>> adapters_per_image;
  // Called after each step. Returning false ends the run with Error{cancelled}.
  std::function<bool(const StepEnd&)> callback_on_step_end;
};

struct PipelineOptions {
  std::optional<Dtype> dtype;  // none: see ModelOptions
  Device device = at::kCPU;
  std::string variant;
  // Another scheduler than the model's own, by a name of Scheduler::names() or a class name, from the model's own
  // config.
  std::string scheduler;
};

// diffusers' StableDiffusionPipeline for SD 1.x and 2.x. Calls on one pipeline from several threads are independent of
// each other: each keeps the adapters that were set when it began. Calls that write weights (fuse, unfuse, disable
// while fused) wait for the runs under way.
class StableDiffusionPipeline : public StableDiffusionLoraLoaderMixin {
 public:
  // A diffusers folder, or a single-file checkpoint (.safetensors, .ckpt) in the original LDM layout. Throws
  // Error{not_found, bad_file, bad_key, bad_shape, unsupported}.
  static StableDiffusionPipeline from_pretrained(const std::filesystem::path& path,
                                                 const PipelineOptions& options = {});

  // A picture a prompt and image, in that order. Throws Error{usage} for arguments out of range, Error{cancelled}.
  std::vector<Image> operator()(const Prompts& prompt, const StableDiffusionOptions& options = {}) const;

  // The same in its parts: the final latents, and pictures of latents.
  Tensor generate_latents(const Prompts& prompt, const StableDiffusionOptions& options = {}) const;
  std::vector<Image> decode_latents(const Tensor& latents) const;

  // [prompts, tokens, width] on the model's device.
  Tensor encode_prompt(const Prompts& prompt, std::optional<int> clip_skip = {}) const;

  // A diffusers folder of the pipeline as it is now, with what is fused. Throws Error{io}.
  void save_pretrained(const std::filesystem::path& folder) const;

  UNet2DConditionModel unet;
  CLIPTextModel text_encoder;
  AutoencoderKL vae;
  CLIPTokenizer tokenizer;
  std::shared_ptr<const Scheduler> scheduler;  // each run clones it

  Dtype dtype() const { return unet.dtype(); }
  Device device() const { return unet.device(); }

 private:
  std::vector<Component> lora_components() const override { return {{"unet", &unet}, {"text_encoder", &text_encoder}}; }
};

// The dtype of the denoiser's weights as they are stored. Reads a header, no weights.
Dtype stored_dtype(const std::filesystem::path& path, const std::string& variant = "");

}  // namespace lora
