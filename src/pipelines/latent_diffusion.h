#pragma once
// What a pipeline over latents tells the loop about its model, and what the loop gives it in a run.
#include "lora/pipelines.h"
#include "models/parts_of.h"
#include "pipelines/call_options.h"
#include "pipelines/call_scope.h"

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

// The texts to embed: one for each prompt and text encoder.
struct LatentDiffusionPipeline::Texts {
  std::vector<std::string> by_encoder[3];
  std::optional<int> clip_skip;
  int max_sequence_length = 256;
  bool negative = false;
  const CallOptions* options = nullptr;  // these two: nullptr outside a pipeline's call
  CallScope* call = nullptr;
  int steps = 1;  // of that call

  // Returns f(), with the component's adapters applied: the call's, or outside a call the active ones.
  template <class F>
  auto run(const char* component, const Model& model, F f) const {
    auto scope = call ? call->on(component, 0, steps) : RunScope(parts_of(model));
    return f();
  }
  // Notes to the caller what of one text encoder's texts is cut off.
  void note_unread(const char* component, int encoder, int64_t length,
                   const std::function<std::string(const std::string&)>& cut_off) const;
  // tokenize() of one CLIP text encoder's texts, with note_unread().
  Tensor ids(const char* component, const CLIPTextModel& model, const CLIPTokenizer& tokenizer, int encoder) const;
  // penultimate() of one CLIP text encoder's texts, in run(). `encoder` counts from 0.
  TextEmbeddings clip(const char* component, const CLIPTextModel& model, const CLIPTokenizer& tokenizer,
                      int encoder) const;
};

// What the denoiser takes at every step, for the whole batch. With guidance, the negative half comes first.
struct LatentDiffusionPipeline::Conditions {
  Tensor embeds, pooled, time_ids, timestep_cond;
};

// The ids of padded texts, [texts, tokens], on a text encoder's device. They include the words that adapters of this
// run add.
Tensor tokenize(const CLIPTokenizer& tokenizer, const CLIPTextModel& model, const std::vector<std::string>& texts);

// A CLIP text encoder's states before its last layer, without the final norm, and the projection of the end token.
// `clip_skip` leaves out that many more layers. Throws Error{usage} where the model has too few.
TextEmbeddings penultimate(const CLIPTextModel& model, const Tensor& ids, std::optional<int> clip_skip);

}  // namespace lora
