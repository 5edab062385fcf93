#pragma once
// Prompts to images: what all pipelines have in common. lora/pipelines.h has the pipelines.
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lora/image.h"
#include "lora/loaders.h"
#include "lora/model.h"
#include "lora/one_or_many.h"
#include "lora/scheduler.h"

namespace lora {

class PipelineFolder;

// One prompt or several.
using Prompts = OneOrMany<std::string>;

struct StepEnd {
  int step;                // from 0
  int num_steps;           // of the whole run
  Tensor timestep;         // the scheduler's
  Tensor& latents;         // [images, channels, h, w] (aMUSEd: tokens [images, h, w]); the callback may replace them
  uint64_t lora_snapshot;  // the adapters of this call: see LoraBaseMixin::lora_snapshot()
};

struct AttentionKwargs {
  double scale = 1.0;  // multiplies the weight of every adapter that applies, in this call only
};

// The arguments of diffusers' pipelines, under their names. A pipeline refuses an argument that it does not use.
//
// The order is that of diffusers' __call__ signatures, merged: SDXL's inpainting, then SD 3, then aMUSEd. The arguments
// that diffusers does not have come last.
struct CallOptions {
  // Leave `prompt_2` and `prompt_3` empty to reuse the first prompt. Give one text for all prompts, or one for each.
  Prompts prompt_2, prompt_3;
  // The images to start from: one for all prompts, or one for each. The pipeline resizes them to `height` and `width`.
  OneOrMany<Image> image;
  // Inpainting: the pipeline draws `image` anew where the mask is white. A model that has input channels for the mask
  // sees the mask. With other models, the pipeline puts the rest of the image back after every step.
  OneOrMany<Image> mask_image;
  int height = 0, width = 0;  // in pixels; 0: the size of the first image, or without images the model's own
  // How much of the run `image` goes through, in (0, 1]. Without a value: SD 0.8, SDXL 0.3, SD 3 0.6; with a mask SD 1,
  // SDXL 0.9999, SD 3 0.6. With denoising_start: that of the run before this one.
  std::optional<double> strength;
  std::optional<int> num_inference_steps;  // without a value: SD and SDXL 50, SD 3 28, aMUSEd 12
  // SDXL: this pipeline works between these fractions of the run, which are above 0 and below 1. Steps of schedules
  // count from the start of the run.
  std::optional<double> denoising_start, denoising_end;
  // Guidance applies above 1, and doubles the work. Without a value: SD 7.5, SDXL 5 (with a mask 7.5), SD 3 7,
  // aMUSEd 10.
  std::optional<double> guidance_scale;
  // Leave negative prompts empty to use the model's default. `""` is a real, empty prompt. Give one text for all
  // prompts, or one for each.
  Prompts negative_prompt, negative_prompt_2, negative_prompt_3;
  int num_images_per_prompt = 1;
  double eta = 0.0;  // DDIM: 0 is deterministic, 1 is DDPM
  // diffusers' generator. One seed draws the noise of the whole batch, as torch.Generator().manual_seed(seed) does. One
  // seed for each image draws each image as it is drawn alone. Leave it empty for a random seed.
  OneOrMany<uint64_t> seed;
  // The noise to start from, unscaled, in place of a seed's: [images, channels, h, w]. With denoising_start: what
  // another pipeline's generate_latents returned at its denoising_end. `image` then needs a mask_image: it is what the
  // pipeline puts back.
  Tensor latents;
  // In place of prompts: [prompts, tokens, width]. Pooled embeddings, where the model takes them: [prompts, width].
  Tensor prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds;
  AttentionKwargs cross_attention_kwargs;  // of models with a UNet, and of aMUSEd
  AttentionKwargs joint_attention_kwargs;  // of SD 3
  double guidance_rescale = 0.0;           // SD and SDXL
  // SDXL's size conditioning: (height, width) and (top, left). Without a value: the size of the images.
  using Pair = std::pair<int, int>;
  std::optional<Pair> original_size;
  Pair crops_coords_top_left;
  std::optional<Pair> target_size, negative_original_size;
  Pair negative_crops_coords_top_left;
  std::optional<Pair> negative_target_size;
  double aesthetic_score = 6.0, negative_aesthetic_score = 2.5;  // of the SDXL refiner
  std::optional<int> clip_skip;  // how many of the last layers of the CLIP text encoders to leave out
  // The pipeline calls this after each step. Return false to end the run with Error{cancelled}.
  std::function<bool(const StepEnd&)> callback_on_step_end;

  int max_sequence_length = 256;  // SD 3: tokens of the third text encoder, 1 to 512
  // SD 3.5: guidance away from what the model predicts without these layers, between two fractions of the run.
  std::vector<int64_t> skip_guidance_layers;
  double skip_layer_guidance_scale = 2.8, skip_layer_guidance_stop = 0.2, skip_layer_guidance_start = 0.01;
  std::optional<double> mu;  // SD 3, for schedulers with dynamic shifting; without a value: from the image size

  // aMUSEd's conditioning on the image, and the scheduler's temperature in the first and in the last step.
  double micro_conditioning_aesthetic_score = 6.0;
  Pair micro_conditioning_crop_coord;
  std::pair<double, double> temperature{2, 0};

  // The adapters of this call only, in place of the active ones. Fused adapters stay. Other calls do not see them, on
  // this thread or another. Without a value: the active adapters. An empty list: no adapters.
  std::optional<std::vector<CallAdapter>> adapters;
  // A list of adapters for each image of the batch, in place of `adapters`.
  std::vector<std::vector<CallAdapter>> adapters_per_image;
  // Called, at the start of a call, with each thing that the caller should know: the end of a prompt that is cut off, a
  // negative prompt that has no effect. One sentence each.
  std::function<void(const std::string& note)> callback_on_note;
};

// The arguments of diffusers' from_pretrained, in its order; `scheduler` is ours.
struct PipelineOptions {
  std::optional<Dtype> dtype;  // without a value: see ModelOptions
  HubOptions hub;              // for repositories on the Hugging Face Hub
  Device device = at::kCPU;
  // "fp16" reads `<name>.fp16.safetensors`. A component without this variant is read without a variant, with a note.
  std::string variant;
  // A scheduler in place of the model's own: a name of Scheduler::names(), or a class name. It reads the config of the
  // model's own scheduler, which may be of a class that is not supported.
  std::string scheduler;
  // What the denoiser predicts, in place of what the files say: "epsilon", "v_prediction" or "sample". Schedulers of SD
  // 3 and aMUSEd do not take it.
  std::string prediction_type;
};

// Threads: any number of threads may make any calls of one pipeline at once, those of LoraBaseMixin as well. When a
// call begins, it takes one snapshot of the adapters of all components. It keeps the snapshot to its end, and nothing
// writes weights meanwhile. A step's callback may call the pipeline again: that call has the same snapshot. A callback
// must not wait for another thread that calls the same pipeline.
//
// A pipeline can be moved, not copied. Its models belong to it alone. Two pipelines that open one file still share its
// memory, where the dtype is the file's. A call on a pipeline that was moved from throws Error{usage}. An exception of
// the caller's callback leaves the call unchanged; every other exception is a lora::Error.
class DiffusionPipeline : public virtual LoraBaseMixin {
 public:
  // Opens the pipeline of:
  // - a diffusers folder, whose model_index.json names the pipeline's class;
  // - a single-file checkpoint (.safetensors, .ckpt);
  // - a repository on the Hugging Face Hub, "owner/name". A file or folder of that name comes first. Downloads only the
  //   files that the pipeline needs.
  // Throws Error{not_found, bad_file, bad_key, bad_shape, unsupported}. For a repository it also throws what
  // hf_hub_download() throws.
  static std::unique_ptr<DiffusionPipeline> from_pretrained(const std::filesystem::path& path,
                                                            const PipelineOptions& options = {});

  // Returns the images of the first prompt, then those of the second, and so on. Throws:
  // - Error{usage} for an argument that is out of range, or that this pipeline does not use;
  // - Error{bad_shape} for a tensor that does not fit;
  // - Error{not_found} for an adapter that is not loaded;
  // - Error{cancelled} where the callback returns false;
  // - Error{unsupported} where numbers become NaN or infinite. The message has the step and the likely causes.
  std::vector<Image> operator()(const Prompts& prompt, const CallOptions& options = {}) const;

  // The two halves of a call: the final latents of prompts, and the images of latents. If a half precision cannot hold
  // an image, it is decoded again in float32.
  virtual Tensor generate_latents(const Prompts& prompt, const CallOptions& options = {}) const = 0;
  virtual std::vector<Image> decode_latents(const Tensor& latents) const = 0;

  // What from_pretrained noticed: tensors that no model has, components without the variant, an unknown prediction
  // type.
  std::vector<std::string> notes() const;

  // Writes a diffusers folder of the pipeline as it is now, with the adapters that are fused. It is written beside
  // `folder` and then put in its place, so that a failure or a kill leaves an old folder whole. `folder` may be the
  // one that the pipeline was opened from. In an existing model folder, the weights (in each format and variant),
  // configs and tokenizer files of the written components are replaced, and all other files stay. The layers of fused
  // adapters that stay active (FuseLoraOptions::max_loss) are not in the weights: they are written to
  // unfused_loras/NAME.safetensors, for a load at the weight of the fused adapter. Throws Error{io} for a folder that
  // is not empty and not a model's.
  void save_pretrained(const std::filesystem::path& folder) const;
  // Throws what save_pretrained() throws for a folder that cannot be written. For programs that work for long before
  // they save. Leaves nothing there.
  static void check_save_folder(const std::filesystem::path& folder);

  // "StableDiffusionPipeline", …
  virtual const char* class_name() const = 0;
  // The models that can hold LoRA, by their names in model_index.json: the denoiser, then the text encoders.
  virtual std::vector<Component> models() const = 0;
  // The model between pixels and latents or tokens: "vae" or "vqvae".
  virtual Component autoencoder() const = 0;
  Dtype dtype() const { return models().front().model->dtype(); }
  Device device() const { return models().front().model->device(); }

  std::shared_ptr<const Scheduler> scheduler;  // each run clones it

 protected:
  // Throws Error{usage} where there is no scheduler.
  explicit DiffusionPipeline(std::shared_ptr<const Scheduler> scheduler);
  // Gives models() to the loaders: call it at the end of the constructor. Throws Error{conflict} where a model belongs
  // to another pipeline.
  void adapt_models();
  // Adds what save_pretrained() does not know: the tokenizers, the components that are missing and the settings.
  virtual void add_to(PipelineFolder& folder) const = 0;

  std::vector<std::string> notes_of_files_;  // the part of notes() that the models do not have
};

// The dtype of the denoiser's weights in the files. Reads a header, no weights. For a repository, downloads what
// from_pretrained downloads.
Dtype stored_dtype(const std::filesystem::path& path, const PipelineOptions& options = {});

}  // namespace lora
