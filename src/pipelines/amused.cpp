#include <ATen/ATen.h>

#include "core/check.h"
#include "io/public_call.h"
#include "loaders/registry_of.h"
#include "lora/pipelines.h"
#include "models/parts_of.h"
#include "pipelines/batch.h"
#include "pipelines/call_scope.h"
#include "pipelines/latent_diffusion.h"
#include "pipelines/pipeline_files.h"
#include "pipelines/sound_numbers.h"

namespace lora {

AmusedPipeline AmusedPipeline::open(const PipelineFiles& files) {
  auto tokenizer = files.tokenizer("tokenizer");
  auto transformer = files.model<UVit2DModel>("transformer");
  AmusedPipeline pipe({.vqvae = files.model<VQModel>("vqvae"),
                       .tokenizer = tokenizer.get(),
                       .text_encoder = files.model<CLIPTextModel>("text_encoder"),
                       .transformer = std::move(transformer),
                       .scheduler = files.scheduler()});
  pipe.notes_of_files_ = files.notes();
  return pipe;
}

AmusedPipeline::AmusedPipeline(Components c)
    : DiffusionPipeline(std::move(c.scheduler)),
      transformer(std::move(c.transformer)),
      vqvae(std::move(c.vqvae)),
      text_encoder(std::move(c.text_encoder)),
      tokenizer(std::move(c.tokenizer)) {
  adapt_models();
}

void AmusedPipeline::add_to(PipelineFolder& folder) const { folder.add("tokenizer", tokenizer); }

std::vector<LoraBaseMixin::Component> AmusedPipeline::models() const {
  return {{"transformer", &transformer}, {"text_encoder", &text_encoder}};
}

void AmusedPipeline::check_words(const std::string&, const std::vector<AddedWord>& words) const {
  tokenizer.with_words(words);
}

TextEmbeddings AmusedPipeline::embed(const std::vector<std::string>& texts) const {
  return penultimate(text_encoder, tokenize(tokenizer, text_encoder, texts), {});
}

TextEmbeddings AmusedPipeline::encode_prompt(const Prompts& prompt) const {
  return public_call([&] {
    const RunScope run(parts_of(text_encoder));
    return embed(spread_prompts(prompt));
  });
}

Tensor AmusedPipeline::generate_latents(const Prompts& prompt, const CallOptions& options) const {
  return public_call([&] { return run(prompt, options); });
}

Tensor AmusedPipeline::run(const Prompts& prompt, const CallOptions& o) const {
  const Taken takes{"pooled_prompt_embeds",
                    "negative_pooled_prompt_embeds",
                    "micro_conditioning_aesthetic_score",
                    "micro_conditioning_crop_coord",
                    "temperature",
                    "cross_attention_kwargs"};
  Batch batch(*this, prompt, o, takes,
              {.states = transformer.encoder_hidden_size(), .pooled = transformer.cond_embed_dim()});
  const auto factor = vqvae.scale_factor();
  batch.set_size(transformer.sample_size() * factor, transformer.downsample() ? 2 * factor : factor);
  const std::vector<int64_t> shape{batch.images(), batch.height() / factor, batch.width() / factor};
  if (o.latents.defined()) check_argument("latents", o.latents, at::kLong, shape);

  auto steps = scheduler->clone();
  steps->set_timesteps(o.num_inference_steps.value_or(12), {.temperature = o.temperature});
  const auto timesteps = steps->timesteps();
  const auto count = int(timesteps.size(0));
  const auto mask_token = steps->mask_token_id();
  check(mask_token.has_value(), ErrorKind::usage, "{} does not have a mask_token_id. aMUSEd needs an AmusedScheduler",
        steps->class_name());
  CallScope scope(registry_of(*this), o, batch.images(), o.cross_attention_kwargs.scale,
                  {"transformer", shape[1], shape[2]});

  // Text.
  const auto guidance_scale = o.guidance_scale.value_or(10);
  const bool guided = guidance_scale > 1;
  if (!guided) note_unguided(o, guidance_scale);
  const auto text = batch.embeddings(guided, [&](bool negative, const TextEmbeddings&) {
    auto run = scope.on("text_encoder", 0, count);
    const auto texts = batch.texts(negative, 0);
    note_unread(o, "text_encoder", negative, texts, tokenizer.model_max_length(), [&](const std::string& each) {
      return tokenizer.with_words(text_encoder.added_words()).truncated_part(each);
    });
    return embed(texts);
  });
  check_sound(text.prompt_embeds, "the text embeddings", *this, o);
  check_sound(text.pooled, "the pooled text embeddings", *this, o);
  const auto [top, left] = o.micro_conditioning_crop_coord;
  const auto micro = at::tensor(std::vector<double>{double(batch.width()), double(batch.height()), double(top),
                                                    double(left), o.micro_conditioning_aesthetic_score});
  const auto micro_conds = micro.to(device(), dtype()).expand({text.prompt_embeds.size(0), -1});

  // Tokens.
  auto tokens = o.latents.defined() ? o.latents.to(device())
                                    : at::full(shape, *mask_token, at::TensorOptions(device()).dtype(at::kLong));
  SchedulerStepOptions step_options{.generators = generators(o.seed, batch.images())};
  for (int i = 0; i < count; ++i) {
    auto run = scope.on("transformer", i, count);
    auto logits =
        transformer(guided ? at::cat({tokens, tokens}) : tokens, text.prompt_embeds, text.pooled, micro_conds);
    if (guided) logits = guide(logits.chunk(2), guidance_scale);
    check_sound(logits, fmt::format("in step {} of {}, the logits", i + 1, count), *this, o);
    tokens = steps->step(logits, timesteps[i], tokens, step_options).prev_sample;
    report_step(o, i, count, timesteps[i], tokens, scope.snapshot());
  }
  return tokens;
}

std::vector<Image> AmusedPipeline::decode_latents(const Tensor& latents) const {
  return public_call([&] {
    auto pixels =
        in_enough_precision(vqvae, "the pixels", [&](const VQModel& m) { return m.decode(latents.to(device())); });
    return to_images(pixels.clamp(0, 1));
  });
}

}  // namespace lora
