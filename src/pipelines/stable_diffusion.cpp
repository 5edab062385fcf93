#include "lora/pipelines.h"
#include "pipelines/latent_diffusion.h"
#include "pipelines/pipeline_files.h"

namespace lora {

StableDiffusionPipeline StableDiffusionPipeline::open(const PipelineFiles& files) {
  StableDiffusionPipeline pipe;
  auto tokenizer = files.tokenizer("tokenizer");
  pipe.unet = files.model<UNet2DConditionModel>("unet");
  pipe.text_encoder = files.model<CLIPTextModel>("text_encoder");
  pipe.vae = files.model<AutoencoderKL>("vae");
  pipe.scheduler = files.scheduler();
  pipe.tokenizer = tokenizer.get();
  return pipe;
}

void StableDiffusionPipeline::save_pretrained(const std::filesystem::path& folder) const {
  PipelineFolder out(folder);
  for (const auto& c : models()) out.add(c.name, *c.model);
  out.add("vae", vae);
  out.add("tokenizer", tokenizer);
  out.add(*scheduler);
  for (const char* absent : {"feature_extractor", "image_encoder", "safety_checker"}) out.add_nothing(absent);
  out.set("requires_safety_checker", false);
  out.finish(unet.in_channels() > vae.latent_channels() ? "StableDiffusionInpaintPipeline" : class_name());
}

std::vector<LoraBaseMixin::Component> StableDiffusionPipeline::models() const {
  return {{"unet", &unet}, {"text_encoder", &text_encoder}};
}

void StableDiffusionPipeline::check_words(const std::string&, const std::vector<AddedWord>& words) const {
  tokenizer.with_words(words);
}

Tensor StableDiffusionPipeline::encode_prompt(const Prompts& prompt, std::optional<int> clip_skip) const {
  return embed({.by_encoder = {prompt}, .clip_skip = clip_skip}).prompt_embeds;
}

LatentDiffusionPipeline::Traits StableDiffusionPipeline::traits() const {
  return {
      .denoiser = "unet",
      .sample_size = unet.sample_size(),
      .in_channels = unet.in_channels(),
      .time_cond_proj_dim = unet.time_cond_proj_dim(),
      .text_width = text_encoder.hidden_size(),
      .takes = {"guidance_rescale", "eta", "clip_skip", "image", "strength", "mask_image", "cross_attention_kwargs"}};
}

TextEmbeddings StableDiffusionPipeline::embed(const Texts& texts) const {
  auto encode = [&] {
    return text_encoder.encode(tokenize(tokenizer, text_encoder, texts.by_encoder[0]), texts.clip_skip);
  };
  return {texts.inside("text_encoder", text_encoder, encode), {}};
}

Tensor StableDiffusionPipeline::predict(const Tensor& input, const Tensor& timestep, const Conditions& given,
                                        const std::vector<int64_t>&) const {
  return unet(input, timestep, given.embeds, {.timestep_cond = given.timestep_cond});
}

}  // namespace lora
