#include <ATen/ATen.h>

#include "core/check.h"
#include "io/public_call.h"
#include "loaders/registry_of.h"
#include "lora/pipelines.h"
#include "models/parts_of.h"
#include "pipelines/call_options.h"
#include "pipelines/call_scope.h"
#include "pipelines/latent_diffusion.h"
#include "pipelines/pipeline_files.h"

namespace lora {

AmusedPipeline AmusedPipeline::open(const PipelineFiles& files) {
  auto tokenizer = files.tokenizer("tokenizer");
  auto transformer = files.model<UVit2DModel>("transformer");
  auto text_encoder = files.model<CLIPTextModel>("text_encoder");
  return AmusedPipeline({.vqvae = files.model<VQModel>("vqvae"),
                         .tokenizer = tokenizer.get(),
                         .text_encoder = std::move(text_encoder),
                         .transformer = std::move(transformer),
                         .scheduler = files.scheduler()});
}

AmusedPipeline::AmusedPipeline(Components c)
    : DiffusionPipeline(std::move(c.scheduler)),
      transformer(std::move(c.transformer)),
      vqvae(std::move(c.vqvae)),
      text_encoder(std::move(c.text_encoder)),
      tokenizer(std::move(c.tokenizer)) {
  adapt({{"transformer", &transformer}, {"text_encoder", &text_encoder}});
}

void AmusedPipeline::save_pretrained(const std::filesystem::path& folder) const {
  public_call([&] {
    const SnapshotScope unwritten(registry_of(*this));
    check_scheduler();
    PipelineFolder out(folder);
    for (const auto& c : models()) out.add(c.name, *c.model);
    out.add("vqvae", vqvae);
    out.add("tokenizer", tokenizer);
    out.add(*scheduler);
    out.finish(class_name());
  });
}

std::vector<LoraBaseMixin::Component> AmusedPipeline::models() const {
  return {{"transformer", &transformer}, {"text_encoder", &text_encoder}};
}

void AmusedPipeline::check_words(const std::string&, const std::vector<AddedWord>& words) const {
  tokenizer.with_words(words);
}

TextEmbeddings AmusedPipeline::encode_prompt(const Prompts& prompt) const {
  return public_call([&] {
    const RunScope run(parts_of(text_encoder));
    return penultimate(text_encoder, tokenize(tokenizer, text_encoder, spread_prompts(prompt)), {});
  });
}

Tensor AmusedPipeline::generate_latents(const Prompts& prompt, const CallOptions& options) const {
  return public_call([&] { return run(prompt, options); });
}

Tensor AmusedPipeline::run(const Prompts& prompt, const CallOptions& o) const {
  check_taken(o,
              {"pooled_prompt_embeds", "negative_pooled_prompt_embeds", "micro_conditioning_aesthetic_score",
               "micro_conditioning_crop_coord", "temperature", "cross_attention_kwargs"},
              class_name());
  check_scheduler();
  auto prompts = count_prompts(prompt, o), images = prompts * o.num_images_per_prompt;
  const TextWidths widths{.states = transformer.encoder_hidden_size(), .pooled = transformer.cond_embed_dim()};
  const auto given = given_embeddings(o, /*negative=*/false, prompts, widths),
             negative = given_embeddings(o, /*negative=*/true, prompts, widths);
  auto factor = vqvae.scale_factor();
  auto height = o.height ? o.height : transformer.sample_size() * factor;
  auto width = o.width ? o.width : transformer.sample_size() * factor;
  check(height > 0 && width > 0 && height % factor == 0 && width % factor == 0, ErrorKind::usage,
        "the size is {}x{}; width and height must be multiples of {}", width, height, factor);
  check(o.seed.size() <= 1, ErrorKind::usage, "{} seeds: aMUSEd's scheduler draws for the whole batch, from one seed",
        o.seed.size());

  std::vector<int64_t> shape{images, height / factor, width / factor};
  if (o.latents.defined()) check_argument("latents", o.latents, at::kLong, shape);

  auto steps = scheduler->clone();
  steps->set_timesteps(o.num_inference_steps.value_or(12), {.temperature = o.temperature});
  auto timesteps = steps->timesteps();
  auto count = int(timesteps.size(0));
  CallScope scope(registry_of(*this), o, images, o.cross_attention_kwargs.scale, {"transformer", shape[1], shape[2]});

  // Text.
  auto repeats = o.adapters_per_image.empty() ? 1 : int64_t(o.num_images_per_prompt);
  auto embed = [&](const Prompts& texts, const char* name) {
    auto all = spread(texts, {""}, prompts, repeats, name);
    auto pass = scope.on("text_encoder", 0, count);
    return encode_prompt(Prompts(all.begin(), all.end()));
  };
  // Each prompt's images together, as in every other pipeline; diffusers' AmusedPipeline repeats the whole batch.
  auto each_image = [&](const Tensor& t) {
    auto own = t.to(device(), dtype());
    return own.size(0) == images ? own : own.repeat_interleave(images / own.size(0), 0);
  };
  auto text = given.prompt_embeds.defined() ? given : embed(prompt, "prompt");
  auto states = each_image(text.prompt_embeds), pooled = each_image(text.pooled);
  auto guidance_scale = o.guidance_scale.value_or(10);
  bool guided = guidance_scale > 1;
  if (guided) {
    auto without = negative.prompt_embeds.defined() ? negative : embed(o.negative_prompt, "negative_prompt");
    check(each_image(without.prompt_embeds).sizes() == states.sizes(), ErrorKind::bad_shape,
          "negative_prompt_embeds have shape {}, prompt_embeds {}", c10::str(without.prompt_embeds.sizes()),
          c10::str(text.prompt_embeds.sizes()));
    states = at::cat({each_image(without.prompt_embeds), states});
    pooled = at::cat({each_image(without.pooled), pooled});
  }
  auto [top, left] = o.micro_conditioning_crop_coord;
  auto micro = at::tensor(std::vector<double>{double(width), double(height), double(top), double(left),
                                              o.micro_conditioning_aesthetic_score});
  auto micro_conds = micro.to(device(), dtype()).expand({states.size(0), -1});

  // Tokens.
  auto mask_token = config_of(*steps).at("mask_token_id").get<int64_t>();
  auto tokens = o.latents.defined() ? o.latents.to(device())
                                    : at::full(shape, mask_token, at::TensorOptions(device()).dtype(at::kLong));
  SchedulerStepOptions step_options{.generators = generators(o.seed, images)};
  for (int i = 0; i < count; ++i) {
    auto pass = scope.on("transformer", i, count);
    auto logits = transformer(guided ? at::cat({tokens, tokens}) : tokens, states, pooled, micro_conds);
    if (guided) {
      auto halves = logits.chunk(2);
      logits = halves[0] + guidance_scale * (halves[1] - halves[0]);
    }
    tokens = steps->step(logits, timesteps[i], tokens, step_options).prev_sample;
    report_step(o, i, count, timesteps[i], tokens, scope.snapshot());
  }
  return tokens;
}

std::vector<Image> AmusedPipeline::decode_latents(const Tensor& latents) const {
  return public_call([&] { return to_images(vqvae.decode(latents.to(device())).clamp(0, 1)); });
}

}  // namespace lora
