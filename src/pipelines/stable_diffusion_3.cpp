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
  const bool t5 = files.has("text_encoder_3");
  using Encoder = std::optional<T5EncoderModel>;
  auto tokenizer_3 = t5 ? std::optional(files.t5_tokenizer("tokenizer_3")) : std::nullopt;
  auto text_encoder_3 = t5 ? Encoder(files.model<T5EncoderModel>("text_encoder_3")) : Encoder();
  auto vae = files.model<AutoencoderKL>("vae");
  return StableDiffusion3Pipeline({.transformer = std::move(transformer),
                                   .scheduler = files.scheduler(),
                                   .vae = std::move(vae),
                                   .text_encoder = std::move(text_encoder),
                                   .tokenizer = tokenizer.get(),
                                   .text_encoder_2 = std::move(text_encoder_2),
                                   .tokenizer_2 = tokenizer_2.get(),
                                   .text_encoder_3 = std::move(text_encoder_3),
                                   .tokenizer_3 = std::move(tokenizer_3)});
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
        "text_encoder_3 and tokenizer_3: give both or neither");
  std::vector<std::pair<std::string, Model*>> all{
      {"transformer", &transformer}, {"text_encoder", &text_encoder}, {"text_encoder_2", &text_encoder_2}};
  if (text_encoder_3) all.emplace_back("text_encoder_3", &*text_encoder_3);
  adapt(all);
}

void StableDiffusion3Pipeline::save_pretrained(const std::filesystem::path& folder) const {
  public_call([&] {
    const SnapshotScope unwritten(registry_of(*this));
    check_scheduler();
    PipelineFolder out(folder);
    for (const auto& c : models()) out.add(c.name, *c.model);
    out.add("vae", vae);
    out.add("tokenizer", tokenizer);
    out.add("tokenizer_2", tokenizer_2);
    if (tokenizer_3) out.add("tokenizer_3", *tokenizer_3);
    out.add(*scheduler);
    if (!text_encoder_3) out.add_nothing("text_encoder_3");
    if (!tokenizer_3) out.add_nothing("tokenizer_3");
    for (const char* absent : {"feature_extractor", "image_encoder"}) out.add_nothing(absent);
    out.finish(class_name());
  });
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
                                                       int max_sequence_length) const {
  return public_call([&] {
    const SnapshotScope scope(registry_of(*this));
    const auto first = spread_prompts(prompt);
    return embed({.by_encoder = {first, spread_prompts(prompt_2, first, "prompt_2"),
                                 spread_prompts(prompt_3, first, "prompt_3")},
                  .clip_skip = clip_skip,
                  .max_sequence_length = max_sequence_length});
  });
}

LatentDiffusionPipeline::Traits StableDiffusion3Pipeline::traits() const {
  return {.denoiser = "transformer",
          .sample_size = transformer.sample_size(),
          .in_channels = transformer.in_channels(),
          .patch_size = transformer.patch_size(),
          .steps = 28,
          .guidance_scale = 7,
          .inpaint_guidance_scale = 7,
          .strength = 0.6,
          .inpaint_strength = 0.6,
          .rounds_strength_down = false,
          .text = {.states = transformer.joint_attention_dim(), .pooled = transformer.pooled_projection_dim()},
          .layers = transformer.num_layers(),
          .takes = {"prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3", "clip_skip",
                    "max_sequence_length", "pooled_prompt_embeds", "negative_pooled_prompt_embeds", "image", "strength",
                    "mask_image", "skip_guidance_layers", "skip_layer_guidance_scale", "skip_layer_guidance_start",
                    "skip_layer_guidance_stop", "mu", "joint_attention_kwargs"}};
}

// Both CLIP encoders' states side by side, filled up with zeros to T5's width, and T5's (or zeros) after them.
TextEmbeddings StableDiffusion3Pipeline::embed(const Texts& texts) const {
  check(texts.max_sequence_length >= 1 && texts.max_sequence_length <= 512, ErrorKind::usage,
        "max_sequence_length is {}; it must be in 1 … 512", texts.max_sequence_length);
  auto encode = [&](const char* name, const CLIPTextModel& model, const CLIPTokenizer& tokens, int of) {
    return texts.inside(name, model, [&] {
      return penultimate(model, tokenize(tokens, model, texts.by_encoder[of]), texts.clip_skip);
    });
  };
  auto one = encode("text_encoder", text_encoder, tokenizer, 0);
  auto two = encode("text_encoder_2", text_encoder_2, tokenizer_2, 1);
  auto clip = at::cat({one.prompt_embeds, two.prompt_embeds}, -1);
  auto width = transformer.joint_attention_dim();
  Tensor t5;
  if (text_encoder_3) {
    auto run = [&] {
      auto tokens = tokenizer_3->with_words(text_encoder_3->added_words());
      std::vector<Tensor> ids;
      for (const auto& text : texts.by_encoder[2])
        ids.push_back(at::tensor(tokens.encode_padded(text, texts.max_sequence_length), at::kLong));
      return (*text_encoder_3)(at::stack(ids));
    };
    t5 = texts.inside("text_encoder_3", *text_encoder_3, run).to(clip.scalar_type());
  } else {
    t5 = at::zeros({clip.size(0), texts.max_sequence_length, width}, clip.options());
  }
  return {at::cat({at::constant_pad_nd(clip, {0, width - clip.size(2)}), t5}, 1),
          at::cat({one.pooled, two.pooled}, -1)};
}

Tensor StableDiffusion3Pipeline::predict(const Tensor& input, const Tensor& timestep, const Conditions& given,
                                         const std::vector<int64_t>& skip_layers) const {
  return transformer(input, given.embeds, given.pooled, timestep.expand({input.size(0)}), skip_layers);
}

std::optional<double> StableDiffusion3Pipeline::mu(int64_t image_tokens) const {
  auto config = config_of(*scheduler);
  if (!config.value("use_dynamic_shifting", false)) return std::nullopt;
  double from = config.value("base_image_seq_len", 256), to = config.value("max_image_seq_len", 4096);
  double low = config.value("base_shift", 0.5), high = config.value("max_shift", 1.16);
  return low + (double(image_tokens) - from) * (high - low) / (to - from);
}

}  // namespace lora
