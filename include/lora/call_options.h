#pragma once
// The arguments of a pipeline's call.
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lora/adapters.h"
#include "lora/image.h"
#include "lora/one_or_many.h"
#include "lora/tensor.h"

namespace lora {

// One prompt or several.
using Prompts = OneOrMany<std::string>;

// How the text encoders read prompts.
enum class PromptSyntax {
  // As diffusers does: each character is text. A text encoder reads as many tokens as it can take, and not the rest.
  plain,
  // As A1111 does, for prompts of any length:
  // - `(word)` multiplies the weight of a word by 1.1, `[word]` divides it by 1.1, and `(word:1.3)` multiplies it by
  //   1.3. Brackets can be nested. `\(`, `\)`, `\[`, `\]` and `\\` are text.
  // - A CLIP text encoder reads chunks of 75 tokens, each with its own begin and end token. `BREAK` begins a new chunk.
  //   A chunk that is full ends after its last comma, if at most 20 tokens follow the comma.
  // - A weight multiplies the states of its tokens. Then the mean of the chunk's states is restored.
  // - The pooled embeddings are those of the first chunk.
  // - The prompts of a call, and its negative prompts, get the same number of chunks. An empty prompt's chunk fills up.
  // - T5 reads max_sequence_length tokens of the text without brackets and BREAK. The weights act on them in the same
  //   way.
  attention,
};

struct StepEnd {
  int step;                // from 0
  int num_steps;           // of the whole run; a scheduler of second order makes two of each step (Scheduler::order)
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
  // Inpainting: the pipeline draws `image` anew where the mask is at least half white. A model that has input channels
  // for the mask sees the mask. With other models, the pipeline puts the rest of the image back after every step.
  OneOrMany<Image> mask_image;
  int height = 0, width = 0;  // in pixels; 0: the size of the first image, or without images the model's own
  // Inpainting: draws only a part of `image` anew, at height × width, and puts it back into `image`. The part is the
  // smallest rectangle that holds all of the mask that is not black, with this number of pixels around it. The results
  // have the size of `image`. Without height and width, the part is drawn at the model's own size.
  std::optional<int> padding_mask_crop;
  // How much of the run `image` goes through, in (0, 1]. Without a value: SD 0.8, SDXL 0.3, SD 3 0.6, aMUSEd 0.5; with
  // a mask SD 1, SDXL 0.9999, SD 3 0.6, aMUSEd 1. With denoising_start: that of the run before this one.
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
  // DDIM: 0 is deterministic, 1 is DDPM. TCD: 0 is deterministic, 1 has the most noise. A pipeline with another
  // scheduler refuses it.
  double eta = 0.0;
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

  // Inpainting. In diffusers, these are the functions invert() of Pillow, and blur() and apply_overlay() of
  // VaeImageProcessor. They act on the mask in this order, before all else that reads it.
  bool invert_mask = false;  // draws the black part of the mask anew, in place of the white one
  int blur_factor = 0;       // the standard deviation of a Gaussian blur of the mask, in pixels of the mask; to 1000
  bool apply_overlay =
      false;  // puts the pixels of `image` back where the mask is black, and mixes them where it is grey
  PromptSyntax prompt_syntax = PromptSyntax::plain;  // of all prompts and negative prompts of the call

  // The adapters of this call only, in place of the active ones. Fused adapters stay. Other calls do not see them, on
  // this thread or another. Without a value: the active adapters. An empty list: no adapters.
  std::optional<std::vector<CallAdapter>> adapters;
  // A list of adapters for each image of the batch, in place of `adapters`.
  std::vector<std::vector<CallAdapter>> adapters_per_image;
  // Called, at the start of a call, with each thing that the caller should know: the end of a prompt that is cut off, a
  // negative prompt that has no effect. One sentence each.
  std::function<void(const std::string& note)> callback_on_note;
};

}  // namespace lora
