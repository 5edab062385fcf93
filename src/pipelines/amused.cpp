#include <ATen/ATen.h>

#include "core/check.h"
#include "io/public_call.h"
#include "loaders/registry_of.h"
#include "lora/pipelines.h"
#include "nn/random.h"
#include "pipelines/batch.h"
#include "pipelines/call_images.h"
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

TextEmbeddings AmusedPipeline::embed(const PromptTexts& texts) const {
  return texts.clip({{"text_encoder", text_encoder, tokenizer}}).front();
}

TextEmbeddings AmusedPipeline::encode_prompt(const Prompts& prompt, PromptSyntax prompt_syntax) const {
  return public_call([&] {
    const SnapshotScope scope(registry_of(*this));
    return embed({.by_encoder = {spread_prompts(prompt)}, .syntax = prompt_syntax});
  });
}

Tensor AmusedPipeline::generate_latents(const Prompts& prompt, const CallOptions& options) const {
  return public_call([&] { return run(prompt, options); });
}

namespace {

// What a run starts from.
struct Start {
  Tensor tokens;                            // int64 [images, h, w]
  int step = 0;                             // the first step of the run
  Tensor image, mask;                       // of inpainting: the image's tokens, and where the run changes them
  std::vector<double> starting_mask_ratio;  // of inpainting: for each image
};

// float16 may not have enough precision for an encoder; its output shows no NaN.
Tensor encoded(const VQModel& vqvae, const Tensor& pixels) {
  auto encode = [&](const VQModel& m) { return m.encode(pixels.to(m.device(), m.dtype())); };
  if (!vqvae.force_upcast() || vqvae.dtype() != at::kHalf) return encode(vqvae);
  return encode(in_float32(vqvae));
}

// diffusers' AmusedInpaintPipeline masks by this schedule, whatever the model's config says.
std::unique_ptr<Scheduler> with_linear_schedule(const Scheduler& own) {
  auto config = nlohmann::json::parse(own.config());
  config["masking_schedule"] = "linear";
  return Scheduler::from_config(config.dump());
}

// The run of image-to-image or inpainting. `steps` has its timesteps.
Start start_from_image(const AmusedPipeline& pipe, const CallOptions& o, const Batch& batch, const Scheduler& steps,
                       const std::vector<at::Generator>& generators) {
  check(!o.latents.defined(), ErrorKind::usage, "the call has both latents and an image. Give one of them");
  const CallImages pictures(o, batch.height(), batch.width());
  const bool inpaints = !o.mask_image.empty();
  const auto timesteps = steps.timesteps();
  const auto count = int(timesteps.size(0));
  Start start{.step = count - int(count * o.strength.value_or(inpaints ? 1 : 0.5))};
  check(start.step < count, ErrorKind::usage,
        "the run has no steps: none of the {} steps is left. Raise num_inference_steps or strength", count);

  auto tokens = encoded(pipe.vqvae, pictures.pixels());
  if (inpaints) {
    start.image = batch.tiled(tokens, "image");
    auto small = pictures.mask(tokens.size(1), tokens.size(2)).squeeze(1).to(at::kBool);
    start.mask = batch.tiled(small.to(tokens.device()), "mask_image");
    start.tokens = start.image.masked_fill(start.mask, *steps.mask_token_id());
    for (int64_t i = 0; i < batch.images(); ++i)
      start.starting_mask_ratio.push_back(start.mask[i].to(at::kDouble).mean().item<double>());
    return start;
  }
  if (start.step == 0) {  // diffusers masks nothing here
    start.tokens = at::full_like(batch.tiled(tokens, "image"), *steps.mask_token_id());
    return start;
  }
  // One seed masks each image that is given. A seed for each image masks each as if it were drawn alone.
  if (generators.size() > 1) tokens = batch.tiled(tokens, "image");
  auto noise = rand_tensor(tokens.sizes(), generators, at::kFloat, tokens.device());
  start.tokens = batch.tiled(steps.add_noise(tokens, noise, timesteps[start.step - 1].reshape(1)), "image");
  return start;
}

}  // namespace

Tensor AmusedPipeline::run(const Prompts& prompt, const CallOptions& o) const {
  const Taken takes{"pooled_prompt_embeds",
                    "negative_pooled_prompt_embeds",
                    "micro_conditioning_aesthetic_score",
                    "micro_conditioning_crop_coord",
                    "temperature",
                    "image",
                    "strength",
                    "mask_image",
                    "cross_attention_kwargs"};
  Batch batch(*this, prompt, o, takes,
              {.states = transformer.encoder_hidden_size(), .pooled = transformer.cond_embed_dim()});
  const auto factor = vqvae.scale_factor();
  batch.set_size(transformer.sample_size() * factor, transformer.downsample() ? 2 * factor : factor);
  const std::vector<int64_t> shape{batch.images(), batch.height() / factor, batch.width() / factor};
  if (o.latents.defined()) check_argument("latents", o.latents, at::kLong, shape);

  const auto mask_token = scheduler->mask_token_id();
  check(mask_token.has_value(), ErrorKind::usage, "{} does not have a mask_token_id. aMUSEd needs an AmusedScheduler",
        scheduler->class_name());
  auto steps = o.mask_image.empty() ? scheduler->clone() : with_linear_schedule(*scheduler);
  steps->set_timesteps(o.num_inference_steps.value_or(12), {.temperature = o.temperature});
  const auto timesteps = steps->timesteps();
  const auto count = int(timesteps.size(0));
  SchedulerStepOptions step_options{.generators = generators(o.seed, batch.images())};
  auto start = o.image.empty() ? Start() : start_from_image(*this, o, batch, *steps, step_options.generators);
  if (o.image.empty())
    start.tokens = o.latents.defined() ? o.latents.to(device())
                                       : at::full(shape, *mask_token, at::TensorOptions(device()).dtype(at::kLong));
  step_options.starting_mask_ratio = start.starting_mask_ratio;
  const auto run_steps = count - start.step;
  CallScope scope(registry_of(*this), o, batch.images(), o.cross_attention_kwargs.scale,
                  {"transformer", shape[1], shape[2]});

  // Text.
  const auto guidance_scale = o.guidance_scale.value_or(10);
  const bool guided = guidance_scale > 1;
  if (!guided) note_unguided(o, guidance_scale);
  const auto text = [&] {
    const auto held = scope.hold_text_encoders();  // for both halves
    return batch.embeddings(guided, [&](bool negative, const TextEmbeddings&) {
      auto texts = batch.texts(negative, guided);
      texts.call = &scope;
      texts.steps = run_steps;
      return embed(texts);
    });
  }();
  check_sound(text.prompt_embeds, "the text embeddings", *this, o);
  check_sound(text.pooled, "the pooled text embeddings", *this, o);
  const auto [top, left] = o.micro_conditioning_crop_coord;
  const auto micro = at::tensor(std::vector<double>{double(batch.width()), double(batch.height()), double(top),
                                                    double(left), o.micro_conditioning_aesthetic_score});
  const auto micro_conds = micro.to(device(), dtype()).expand({text.prompt_embeds.size(0), -1});

  // Tokens.
  auto tokens = start.tokens;
  const auto held = scope.hold("transformer");  // for all steps
  for (int i = 0; i < run_steps; ++i) {
    auto run = scope.on("transformer", i, run_steps);
    const auto t = timesteps[start.step + i];
    auto logits =
        transformer(guided ? at::cat({tokens, tokens}) : tokens, text.prompt_embeds, text.pooled, micro_conds);
    if (guided) logits = guide(logits.chunk(2), guidance_scale);
    check_sound(logits, fmt::format("in step {} of {}, the logits", i + 1, run_steps), *this, o);
    tokens = steps->step(logits, t, tokens, step_options).prev_sample;
    // Where nothing is masked any more, the scheduler masks a known token.
    if (start.mask.defined()) tokens = at::where(start.mask, tokens, start.image);
    report_step(o, i, run_steps, t, tokens, scope.snapshot());
  }
  return tokens;
}

void AmusedPipeline::enable_vae_tiling(const TilingOptions&) {
  public_call([] {
    fail(ErrorKind::usage,
         "AmusedPipeline does not take enable_vae_tiling. Its VQ model works without tiles, as in diffusers. Leave it "
         "out");
  });
}

std::vector<Image> AmusedPipeline::decode_latents(const Tensor& latents) const {
  return public_call([&] {
    auto pixels =
        in_enough_precision(vqvae, "the pixels", [&](const VQModel& m) { return m.decode(latents.to(device())); });
    return to_images(pixels.clamp(0, 1));
  });
}

}  // namespace lora
