#include "io/public_call.h"
#include "loaders/registry_of.h"
#include "lora/pipelines.h"
#include "pipelines/latent_diffusion.h"
#include "pipelines/pipeline_files.h"

namespace lora {

StableDiffusionPipeline StableDiffusionPipeline::open(const PipelineFiles& files) {
  auto tokenizer = files.tokenizer("tokenizer");
  auto unet = files.model<UNet2DConditionModel>("unet");
  StableDiffusionPipeline pipe({.vae = files.model<AutoencoderKL>("vae"),
                                .text_encoder = files.model<CLIPTextModel>("text_encoder"),
                                .tokenizer = tokenizer.get(),
                                .unet = std::move(unet),
                                .scheduler = files.scheduler()});
  pipe.notes_of_files_ = files.notes();
  return pipe;
}

StableDiffusionPipeline::StableDiffusionPipeline(Components c)
    : LatentDiffusionPipeline(std::move(c.vae), std::move(c.scheduler)),
      unet(std::move(c.unet)),
      text_encoder(std::move(c.text_encoder)),
      tokenizer(std::move(c.tokenizer)) {
  adapt_models();
}

void StableDiffusionPipeline::add_to(PipelineFolder& folder) const {
  folder.add("tokenizer", tokenizer);
  folder.add_missing({"feature_extractor", "image_encoder", "safety_checker"});
  folder.set("requires_safety_checker", false);
  if (unet.in_channels() > vae.latent_channels()) folder.set("_class_name", "StableDiffusionInpaintPipeline");
}

std::vector<LoraBaseMixin::Component> StableDiffusionPipeline::models() const {
  return {{"unet", &unet}, {"text_encoder", &text_encoder}};
}

void StableDiffusionPipeline::check_words(const std::string&, const std::vector<AddedWord>& words) const {
  tokenizer.with_words(words);
}

Tensor StableDiffusionPipeline::encode_prompt(const Prompts& prompt, std::optional<int> clip_skip,
                                              PromptSyntax prompt_syntax) const {
  return public_call([&] {
    const SnapshotScope scope(registry_of(*this));
    return embed({.by_encoder = {spread_prompts(prompt)}, .syntax = prompt_syntax, .clip_skip = clip_skip})
        .prompt_embeds;
  });
}

LatentDiffusionPipeline::Traits StableDiffusionPipeline::traits() const {
  return {
      .denoiser = "unet",
      .sample_size = unet.sample_size(),
      .in_channels = unet.in_channels(),
      .time_cond_proj_dim = unet.time_cond_proj_dim(),
      .text = {.states = unet.cross_attention_dim()},
      .takes = {"guidance_rescale", "eta", "clip_skip", "image", "strength", "mask_image", "cross_attention_kwargs"}};
}

TextEmbeddings StableDiffusionPipeline::embed(const PromptTexts& texts) const {
  auto encode = [&](const CLIPTextModel& model, const Tensor& ids) {
    return TextEmbeddings{model.encode(ids, texts.clip_skip), {}};
  };
  return texts.clip({{"text_encoder", text_encoder, tokenizer}}, encode).front();
}

Tensor StableDiffusionPipeline::predict(const Tensor& input, const Tensor& timestep, const Conditions& conditions,
                                        const std::vector<int64_t>&) const {
  return unet(input, timestep, conditions.embeds, {.timestep_cond = conditions.timestep_cond});
}

}  // namespace lora
