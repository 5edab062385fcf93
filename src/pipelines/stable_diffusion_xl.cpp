#include <ATen/ATen.h>

#include "core/check.h"
#include "io/public_call.h"
#include "loaders/registry_of.h"
#include "lora/pipelines.h"
#include "pipelines/latent_diffusion.h"
#include "pipelines/pipeline_files.h"

namespace lora {

StableDiffusionXLPipeline StableDiffusionXLPipeline::open(const PipelineFiles& files) {
  auto tokenizer_2 = files.tokenizer("tokenizer_2", "!");
  auto unet = files.model<UNet2DConditionModel>("unet");
  auto text_encoder = files.optional_model<CLIPTextModel>("text_encoder");
  const bool refiner = !text_encoder;
  auto tokenizer = refiner ? std::nullopt : std::optional(files.tokenizer("tokenizer").get());
  auto text_encoder_2 = files.model<CLIPTextModel>("text_encoder_2");
  // The fallbacks of flag() are for single files, which have no index.
  StableDiffusionXLPipeline pipe({.vae = files.vae_in_float32(),
                                  .text_encoder = std::move(text_encoder),
                                  .text_encoder_2 = std::move(text_encoder_2),
                                  .tokenizer = std::move(tokenizer),
                                  .tokenizer_2 = tokenizer_2.get(),
                                  .unet = std::move(unet),
                                  .scheduler = files.scheduler(),
                                  .force_zeros_for_empty_prompt = files.flag("force_zeros_for_empty_prompt", !refiner),
                                  .requires_aesthetics_score = files.flag("requires_aesthetics_score", refiner)});
  pipe.notes_of_files_ = files.notes();
  return pipe;
}

StableDiffusionXLPipeline::StableDiffusionXLPipeline(Components c)
    : LatentDiffusionPipeline(std::move(c.vae), std::move(c.scheduler)),
      unet(std::move(c.unet)),
      text_encoder(std::move(c.text_encoder)),
      text_encoder_2(std::move(c.text_encoder_2)),
      tokenizer(std::move(c.tokenizer)),
      tokenizer_2(std::move(c.tokenizer_2)),
      force_zeros_for_empty_prompt(c.force_zeros_for_empty_prompt),
      requires_aesthetics_score(c.requires_aesthetics_score) {
  check(text_encoder.has_value() == tokenizer.has_value(), ErrorKind::usage,
        "only one of text_encoder and tokenizer is given. Give both, or for a refiner neither");
  adapt_models();
}

void StableDiffusionXLPipeline::add_to(PipelineFolder& folder) const {
  if (unet.in_channels() > vae.latent_channels())
    folder.set("_class_name", "StableDiffusionXLInpaintPipeline");
  else if (requires_aesthetics_score)
    folder.set("_class_name", "StableDiffusionXLImg2ImgPipeline");
  folder.set("force_zeros_for_empty_prompt", force_zeros_for_empty_prompt);
  if (requires_aesthetics_score) folder.set("requires_aesthetics_score", true);
  folder.add_missing({"feature_extractor", "image_encoder"});
  if (!text_encoder) folder.add_missing({"text_encoder"});
  folder.add("tokenizer", tokenizer);
  folder.add("tokenizer_2", tokenizer_2);
}

std::vector<LoraBaseMixin::Component> StableDiffusionXLPipeline::models() const {
  std::vector<Component> all{{"unet", &unet}};
  if (text_encoder) all.push_back({"text_encoder", &*text_encoder});
  all.push_back({"text_encoder_2", &text_encoder_2});
  return all;
}

void StableDiffusionXLPipeline::check_words(const std::string& component, const std::vector<AddedWord>& words) const {
  (component == "text_encoder" ? *tokenizer : tokenizer_2).with_words(words);
}

TextEmbeddings StableDiffusionXLPipeline::encode_prompt(const Prompts& prompt, const Prompts& prompt_2,
                                                        std::optional<int> clip_skip,
                                                        PromptSyntax prompt_syntax) const {
  return public_call([&] {
    const SnapshotScope scope(registry_of(*this));
    const auto first = spread_prompts(prompt);
    return embed({.by_encoder = {first, spread_prompts(prompt_2, first, "prompt_2")},
                  .syntax = prompt_syntax,
                  .clip_skip = clip_skip});
  });
}

LatentDiffusionPipeline::Traits StableDiffusionXLPipeline::traits() const {
  Taken takes{"guidance_rescale",
              "eta",
              "clip_skip",
              "pooled_prompt_embeds",
              "negative_pooled_prompt_embeds",
              "image",
              "strength",
              "mask_image",
              "original_size",
              "negative_original_size",
              "crops_coords_top_left",
              "negative_crops_coords_top_left",
              "denoising_start",
              "denoising_end",
              "cross_attention_kwargs"};
  if (text_encoder) takes.merge(Taken{"prompt_2", "negative_prompt_2"});
  if (requires_aesthetics_score)
    takes.merge(Taken{"aesthetic_score", "negative_aesthetic_score"});
  else
    takes.merge(Taken{"target_size", "negative_target_size"});
  return {.denoiser = "unet",
          .sample_size = unet.sample_size(),
          .in_channels = unet.in_channels(),
          .time_cond_proj_dim = unet.time_cond_proj_dim(),
          .guidance_scale = 5,
          .strength = 0.3,
          .inpaint_strength = 0.9999,
          .text = {.states = unet.cross_attention_dim(), .pooled = text_encoder_2.projection_dim()},
          .takes = std::move(takes)};
}

TextEmbeddings StableDiffusionXLPipeline::embed(const PromptTexts& texts) const {
  const ClipEncoder last{"text_encoder_2", text_encoder_2, tokenizer_2};
  if (!text_encoder) return texts.clip({last}).front();
  const auto both = texts.clip({{"text_encoder", *text_encoder, *tokenizer}, last});
  return {at::cat({both[0].prompt_embeds, both[1].prompt_embeds}, -1), both[1].pooled};
}

TextEmbeddings StableDiffusionXLPipeline::without_negative_prompt(const TextEmbeddings& prompts,
                                                                  const CallOptions& options) const {
  if (!options.negative_prompt.empty() || !force_zeros_for_empty_prompt) return {};
  return {at::zeros_like(prompts.prompt_embeds), at::zeros_like(prompts.pooled)};
}

Tensor StableDiffusionXLPipeline::time_ids(const CallOptions& o, int height, int width, bool negative) const {
  CallOptions::Pair size{height, width};
  auto original = o.original_size.value_or(size), target = o.target_size.value_or(size);
  auto crops = o.crops_coords_top_left;
  if (negative && (o.negative_original_size || o.negative_target_size || requires_aesthetics_score)) {
    original = o.negative_original_size.value_or(original);
    target = o.negative_target_size.value_or(target);
    crops = o.negative_crops_coords_top_left;
  }
  std::vector<double> ids{double(original.first), double(original.second), double(crops.first), double(crops.second)};
  if (requires_aesthetics_score)
    ids.push_back(negative ? o.negative_aesthetic_score : o.aesthetic_score);
  else
    ids.insert(ids.end(), {double(target.first), double(target.second)});
  return at::tensor(ids, at::kFloat).unsqueeze(0);
}

Tensor StableDiffusionXLPipeline::predict(const Tensor& input, const Tensor& timestep, const Conditions& conditions,
                                          const std::vector<int64_t>&) const {
  return unet(
      input, timestep, conditions.embeds,
      {.text_embeds = conditions.pooled, .time_ids = conditions.time_ids, .timestep_cond = conditions.timestep_cond});
}

}  // namespace lora
