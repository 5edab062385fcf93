#pragma once
// What a pipeline over latents tells the loop about its model, and what the loop gives it in a run.
#include "lora/pipelines.h"
#include "pipelines/call_options.h"
#include "pipelines/prompt_texts.h"

namespace lora {

struct LatentDiffusionPipeline::Traits {
  const char* denoiser;            // the component's name
  int64_t sample_size = 0;         // of latents, for calls without a size
  int64_t in_channels = 4;         // of the denoiser: the latents', and those of a mask and a masked image
  int64_t patch_size = 1;          // the sides of latents are multiples of it
  std::optional<int64_t> largest;  // the largest side of latents
  int64_t time_cond_proj_dim = 0;  // not 0 for a model that was distilled with guidance
  int steps = 50;                  // the defaults of a call
  double guidance_scale = 7.5, inpaint_guidance_scale = 7.5, strength = 0.8, inpaint_strength = 1;
  bool rounds_strength_down = true;  // the steps that strength keeps; false: the steps that it leaves out
  TextWidths text;
  int64_t layers = 0;  // skip_guidance_layers may leave these out
  Predicts predicts = Predicts::noise;
  Taken takes;
};

// What the denoiser takes at every step, for the whole batch. With guidance, the negative half comes first.
struct LatentDiffusionPipeline::Conditions {
  Tensor embeds, pooled, time_ids, timestep_cond;
};

}  // namespace lora
