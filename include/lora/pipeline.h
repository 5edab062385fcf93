#pragma once
// Prompts to pictures: what all pipelines have in common. The pipelines themselves are in lora/pipelines.h.
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lora/image.h"
#include "lora/loaders.h"
#include "lora/model.h"
#include "lora/scheduler.h"

namespace lora {

// One prompt or several; a picture for each.
struct Prompts : std::vector<std::string> {
  using std::vector<std::string>::vector;
  Prompts(const char* prompt) : vector{prompt} {}
  Prompts(std::string prompt) : vector{std::move(prompt)} {}
};

struct StepEnd {
  int step;                // from 0
  int num_steps;           // how many there will be
  Tensor timestep;         // the scheduler's
  Tensor& latents;         // [images, channels, h, w] (aMUSEd: tokens [images, h, w]); may be replaced
  uint64_t lora_snapshot;  // the adapters that the call runs with: see LoraBaseMixin::lora_snapshot()
};

struct AttentionKwargs {
  double scale = 1.0;  // multiplies the weight of every adapter that applies, in this call alone
};

// The arguments of diffusers' pipelines' __call__, under their names. A pipeline that has no use for one refuses it.
struct CallOptions {
  // Empty texts are texts; no text at all is: for the second and third encoder the first's, for negative prompts what
  // the model takes for none. One for all prompts, or one a prompt.
  Prompts prompt_2, prompt_3;
  Prompts negative_prompt, negative_prompt_2, negative_prompt_3;
  int height = 0, width = 0;               // pixels; 0: those of `image`, else the model's own
  std::optional<int> num_inference_steps;  // none: the pipeline's own: 50; SD 3 28; aMUSEd 12
  // 1 or less: no guidance, half the work. None: the pipeline's own: SD 7.5, SDXL 5 (inpainting 7.5), SD 3
  // 7, aMUSEd 10.
  std::optional<double> guidance_scale;
  double guidance_rescale = 0.0;  // SD and SDXL
  int num_images_per_prompt = 1;
  double eta = 0.0;  // DDIM's and LCM's noise share
  // One seed draws for the whole batch from one generator, as torch.Generator().manual_seed(s); one seed an image gives
  // each picture the noise that it has alone. None: a random seed.
  std::vector<uint64_t> seed;
  std::optional<int> clip_skip;   // how many of the CLIP text encoders' last layers to leave out
  int max_sequence_length = 256;  // SD 3: tokens of the third text encoder
  // The starting noise, unscaled, in place of a seed's: [images, channels, h, w]. With denoising_start, what another
  // pipeline's generate_latents left at its denoising_end.
  Tensor latents;
  // In place of the prompts: [prompts, tokens, width], and [prompts, width] where the model takes pooled ones.
  Tensor prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds;

  // Image-to-image: the pictures to start from, one for all or one a prompt, resized where a size is given. `strength`
  // in (0, 1] says how much of the run they go through; none: SD 0.8, SDXL 0.3, SD 3 0.6.
  std::vector<Image> image;
  std::optional<double> strength;
  // Inpainting: where it is white, `image` is drawn anew. `strength` none: SD 1, SDXL 0.9999, SD 3 0.6. Models with
  // channels for the mask see it; with others the rest of the picture is put back after every step.
  std::vector<Image> mask_image;

  // SDXL: what it is told of the picture, (height, width) and (top, left); none: the picture's size.
  using Pair = std::pair<int, int>;
  std::optional<Pair> original_size, target_size, negative_original_size, negative_target_size;
  Pair crops_coords_top_left, negative_crops_coords_top_left;
  double aesthetic_score = 6.0, negative_aesthetic_score = 2.5;  // the refiner's
  // SDXL: fractions of the run between which this pipeline works.
  std::optional<double> denoising_start, denoising_end;

  // SD 3.5: guidance away from what the model predicts without these layers, between two fractions of the run.
  std::vector<int64_t> skip_guidance_layers;
  double skip_layer_guidance_scale = 2.8, skip_layer_guidance_start = 0.01, skip_layer_guidance_stop = 0.2;
  std::optional<double> mu;  // of schedulers with dynamic shifting; none: from the picture's size

  // aMUSEd: what it is told of the picture, and how much chance there is in the first and the last step.
  double micro_conditioning_aesthetic_score = 6.0;
  Pair micro_conditioning_crop_coord;
  std::pair<double, double> temperature{2, 0};

  AttentionKwargs cross_attention_kwargs, joint_attention_kwargs;  // of UNets and aMUSEd, and of SD 3
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
  HubOptions hub;  // for repositories
};

// Threads: any number may call one pipeline at once, beside all calls of LoraBaseMixin. A call takes one snapshot of
// all adapters, of every component, when it begins, and keeps it to its end; nothing writes weights meanwhile. A step's
// callback may call the pipeline again: that call belongs to the same snapshot. A callback must not wait for another
// thread that calls the same pipeline.
//
// A pipeline can be moved, not copied; its models belong to it alone. Two pipelines that open one file share its memory
// all the same, where the dtype is the file's. A call on a pipeline that was moved from throws Error{usage}. What a
// caller's callback throws leaves the call as it is; all else is lora::Error.
class DiffusionPipeline : public virtual LoraBaseMixin {
 public:
  // The pipeline that a diffusers folder's model_index.json names, or that a single-file checkpoint (.safetensors,
  // .ckpt) is for; or that of a repository on the Hugging Face Hub ("owner/name", where no file or folder has that
  // name), of which the files that it needs are downloaded. Throws Error{not_found, bad_file, bad_key, bad_shape,
  // unsupported}, and as hf_hub_download() does.
  static std::unique_ptr<DiffusionPipeline> from_pretrained(const std::filesystem::path& path,
                                                            const PipelineOptions& options = {});

  // A picture a prompt and image, in that order. Throws Error{usage} for arguments out of range or of another pipeline,
  // Error{cancelled}.
  std::vector<Image> operator()(const Prompts& prompt, const CallOptions& options = {}) const;

  // The same in its parts: the final latents, and pictures of latents.
  virtual Tensor generate_latents(const Prompts& prompt, const CallOptions& options = {}) const = 0;
  virtual std::vector<Image> decode_latents(const Tensor& latents) const = 0;

  // A diffusers folder of the pipeline as it is now, with what is fused. Throws Error{io}.
  virtual void save_pretrained(const std::filesystem::path& folder) const = 0;

  // "StableDiffusionPipeline", …
  virtual const char* class_name() const = 0;
  // The models that can hold LoRA, by their names in model_index.json: the denoiser, then the text encoders.
  virtual std::vector<Component> models() const = 0;
  // The one between pixels and latents, or tokens: "vae" or "vqvae".
  virtual Component autoencoder() const = 0;
  Dtype dtype() const { return models().front().model->dtype(); }
  Device device() const { return models().front().model->device(); }

  std::shared_ptr<const Scheduler> scheduler;  // each run clones it

 protected:
  // Throws Error{usage} for no scheduler.
  explicit DiffusionPipeline(std::shared_ptr<const Scheduler> scheduler);
  void check_scheduler() const;  // the same, of the one that it has now
};

// The dtype of the denoiser's weights as they are stored. Reads a header, no weights; of a repository, downloads what
// from_pretrained would.
Dtype stored_dtype(const std::filesystem::path& path, const PipelineOptions& options = {});

}  // namespace lora
