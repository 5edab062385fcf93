#pragma once
// What a pipeline over latents says of its model, and is told in a run.
#include <functional>

#include "lora/pipelines.h"
#include "models/parts_of.h"
#include "pipelines/call_options.h"
#include "pipelines/call_scope.h"

namespace lora {

struct LatentDiffusionPipeline::Traits {
  const char* denoiser;            // its component's name
  int64_t sample_size = 0;         // of latents, where no size is given
  int64_t in_channels = 4;         // of the denoiser: the latents', and those of a mask and a masked picture
  int64_t patch_size = 1;          // latents' sides are multiples of it
  int64_t time_cond_proj_dim = 0;  // where the model was distilled with guidance
  int steps = 50;                  // the defaults of a call
  double guidance_scale = 7.5, inpaint_guidance_scale = 7.5, strength = 0.8, inpaint_strength = 1;
  bool rounds_strength_down = true;  // to whole steps; else what it leaves out is
  TextWidths text;                   // of text embeddings
  int64_t layers = 0;                // those that skip_guidance_layers may leave out
  Taken takes;                       // the arguments that not every pipeline takes
};

// What is to be embedded: a text for each prompt and encoder.
struct LatentDiffusionPipeline::Texts {
  std::vector<std::string> by_encoder[3];
  std::optional<int> clip_skip;
  int max_sequence_length = 256;
  CallScope* call = nullptr;  // the call that this is part of
  int steps = 1;

  // What f gives inside one run of that component: the call's, where this is part of one.
  template <class F>
  auto inside(const char* component, const Model& model, F f) const {
    auto run = call ? call->on(component, 0, steps) : RunScope(parts_of(model));
    return f();
  }
};

// What the denoiser is given at every step, for the whole batch: with guidance, the negative half first.
struct LatentDiffusionPipeline::Conditions {
  Tensor embeds, pooled, time_ids, timestep_cond;
};

// The ids of padded texts, [texts, tokens], on a text encoder's device, with the words that it has in this run.
Tensor tokenize(const CLIPTokenizer& tokenizer, const CLIPTextModel& model, const std::vector<std::string>& texts);

// A CLIP encoder's states before its last layer, or `clip_skip` layers before that, without the final norm, and the
// projection of the end token.
TextEmbeddings penultimate(const CLIPTextModel& model, const Tensor& ids, std::optional<int> clip_skip);

}  // namespace lora
