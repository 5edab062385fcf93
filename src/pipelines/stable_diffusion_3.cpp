#include <ATen/ATen.h>

#include "core/check.h"
#include "io/public_call.h"
#include "loaders/registry_of.h"
#include "lora/pipelines.h"
#include "pipelines/latent_diffusion.h"
#include "pipelines/pipeline_files.h"

namespace lora {

StableDiffusion3Pipeline StableDiffusion3Pipeline::open(const PipelineFiles& files) {
  auto tokenizer = files.tokenizer("tokenizer"), tokenizer_2 = files.tokenizer("tokenizer_2", "!");
  auto transformer = files.model<SD3Transformer2DModel>("transformer");
  auto text_encoder = files.model<CLIPTextModel>("text_encoder");
  auto text_encoder_2 = files.model<CLIPTextModel>("text_encoder_2");
  auto tokenizer_3 = files.has("text_encoder_3") ? std::optional(files.t5_tokenizer("tokenizer_3")) : std::nullopt;
  auto text_encoder_3 = files.optional_model<T5EncoderModel>("text_encoder_3");
  auto vae = files.model<AutoencoderKL>("vae");
  StableDiffusion3Pipeline pipe({.transformer = std::move(transformer),
                                 .scheduler = files.scheduler(),
                                 .vae = std::move(vae),
                                 .text_encoder = std::move(text_encoder),
                                 .tokenizer = tokenizer.get(),
                                 .text_encoder_2 = std::move(text_encoder_2),
                                 .tokenizer_2 = tokenizer_2.get(),
                                 .text_encoder_3 = std::move(text_encoder_3),
                                 .tokenizer_3 = std::move(tokenizer_3)});
  pipe.notes_of_files_ = files.notes();
  return pipe;
}

StableDiffusion3Pipeline::StableDiffusion3Pipeline(Components c)
    : LatentDiffusionPipeline(std::move(c.vae), std::move(c.scheduler)),
      transformer(std::move(c.transformer)),
      text_encoder(std::move(c.text_encoder)),
      text_encoder_2(std::move(c.text_encoder_2)),
      text_encoder_3(std::move(c.text_encoder_3)),
      tokenizer(std::move(c.tokenizer)),
      tokenizer_2(std::move(c.tokenizer_2)),
      tokenizer_3(std::move(c.tokenizer_3)) {
  check(text_encoder_3.has_value() == tokenizer_3.has_value(), ErrorKind::usage,
        "only one of text_encoder_3 and tokenizer_3 is given. Give both or neither");
  adapt_models();
}

void StableDiffusion3Pipeline::add_to(PipelineFolder& folder) const {
  folder.add("tokenizer", tokenizer);
  folder.add("tokenizer_2", tokenizer_2);
  folder.add("tokenizer_3", tokenizer_3);
  if (!text_encoder_3) folder.add_missing({"text_encoder_3"});
  folder.add_missing({"feature_extractor", "image_encoder"});
}

std::vector<LoraBaseMixin::Component> StableDiffusion3Pipeline::models() const {
  std::vector<Component> all{
      {"transformer", &transformer}, {"text_encoder", &text_encoder}, {"text_encoder_2", &text_encoder_2}};
  if (text_encoder_3) all.push_back({"text_encoder_3", &*text_encoder_3});
  return all;
}

void StableDiffusion3Pipeline::check_words(const std::string& component, const std::vector<AddedWord>& words) const {
  if (component == "text_encoder_3")
    tokenizer_3->with_words(words);
  else
    (component == "text_encoder" ? tokenizer : tokenizer_2).with_words(words);
}

TextEmbeddings StableDiffusion3Pipeline::encode_prompt(const Prompts& prompt, const Prompts& prompt_2,
                                                       const Prompts& prompt_3, std::optional<int> clip_skip,
                                                       int max_sequence_length, PromptSyntax prompt_syntax) const {
  return public_call([&] {
    const SnapshotScope scope(registry_of(*this));
    const auto first = spread_prompts(prompt);
    return embed({.by_encoder = {first, spread_prompts(prompt_2, first, "prompt_2"),
                                 spread_prompts(prompt_3, first, "prompt_3")},
                  .syntax = prompt_syntax,
                  .clip_skip = clip_skip,
                  .max_sequence_length = max_sequence_length});
  });
}

LatentDiffusionPipeline::Traits StableDiffusion3Pipeline::traits() const {
  Taken takes{"prompt_2",
              "negative_prompt_2",
              "clip_skip",
              "max_sequence_length",
              "pooled_prompt_embeds",
              "negative_pooled_prompt_embeds",
              "image",
              "strength",
              "mask_image",
              "skip_guidance_layers",
              "skip_layer_guidance_scale",
              "skip_layer_guidance_start",
              "skip_layer_guidance_stop",
              "mu",
              "joint_attention_kwargs"};
  if (text_encoder_3) takes.merge(Taken{"prompt_3", "negative_prompt_3"});
  return {.denoiser = "transformer",
          .sample_size = transformer.sample_size(),
          .in_channels = transformer.in_channels(),
          .patch_size = transformer.patch_size(),
          .largest = transformer.patch_size() * transformer.pos_embed_max_size(),
          .steps = 28,
          .guidance_scale = 7,
          .inpaint_guidance_scale = 7,
          .strength = 0.6,
          .inpaint_strength = 0.6,
          .rounds_strength_down = false,
          .text = {.states = transformer.joint_attention_dim(), .pooled = transformer.pooled_projection_dim()},
          .layers = transformer.num_layers(),
          .predicts = Predicts::flow,
          .takes = std::move(takes)};
}

// The states of both CLIP encoders side by side, padded with zeros to T5's width. After them the states of T5, or
// zeros.
TextEmbeddings StableDiffusion3Pipeline::embed(const PromptTexts& texts) const {
  check(texts.max_sequence_length >= 1 && texts.max_sequence_length <= 512, ErrorKind::usage,
        "max_sequence_length is {}. It must be 1 to 512", texts.max_sequence_length);
  const auto both =
      texts.clip({{"text_encoder", text_encoder, tokenizer}, {"text_encoder_2", text_encoder_2, tokenizer_2}});
  auto clip = at::cat({both[0].prompt_embeds, both[1].prompt_embeds}, -1);
  auto width = transformer.joint_attention_dim();
  auto t5 = text_encoder_3 ? texts.t5("text_encoder_3", *text_encoder_3, *tokenizer_3).to(clip.scalar_type())
                           : at::zeros({clip.size(0), texts.max_sequence_length, width}, clip.options());
  return {at::cat({at::constant_pad_nd(clip, {0, width - clip.size(2)}), t5}, 1),
          at::cat({both[0].pooled, both[1].pooled}, -1)};
}

Tensor StableDiffusion3Pipeline::predict(const Tensor& input, const Tensor& timestep, const Conditions& conditions,
                                         const std::vector<int64_t>& skip_layers) const {
  return transformer(input, conditions.embeds, conditions.pooled, timestep.expand({input.size(0)}), skip_layers);
}

std::optional<double> StableDiffusion3Pipeline::mu(int64_t image_tokens) const {
  return scheduler->mu_for(image_tokens);
}

}  // namespace lora
