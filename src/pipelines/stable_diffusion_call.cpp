// From prompts to latents and pictures: the loop of StableDiffusionPipeline.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <cmath>
#include <random>

#include "core/check.h"
#include "loaders/call_adapters.h"
#include "lora/pipeline.h"
#include "nn/random.h"
#include "nn/site.h"

namespace lora {

namespace {

// "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv:2305.08891), section 3.4.
Tensor rescale_noise_cfg(const Tensor& noise_cfg, const Tensor& noise_pred_text, double guidance_rescale) {
  std::vector<int64_t> dims{1, 2, 3};
  auto std_text = noise_pred_text.std(dims, /*unbiased=*/true, /*keepdim=*/true);
  auto std_cfg = noise_cfg.std(dims, true, true);
  return guidance_rescale * (noise_cfg * (std_text / std_cfg)) + (1 - guidance_rescale) * noise_cfg;
}

// Sinusoids of the guidance scale, for models that were distilled with it (latent consistency models).
Tensor guidance_scale_embedding(double w, int64_t images, int64_t dim) {
  auto half = dim / 2;
  auto step = at::log(at::scalar_tensor(10000.0)) / double(half - 1);
  auto frequencies = at::exp(at::arange(half, at::kFloat) * -step);
  auto phases = at::full({images, 1}, w, at::kFloat) * 1000.0 * frequencies.unsqueeze(0);
  auto embedding = at::cat({at::sin(phases), at::cos(phases)}, 1);
  return dim % 2 ? at::constant_pad_nd(embedding, {0, 1}) : embedding;
}

std::vector<at::Generator> generators(const std::vector<uint64_t>& seeds, int64_t images) {
  check(seeds.size() <= 1 || int64_t(seeds.size()) == images, ErrorKind::usage,
        "{} seeds for {} images; give one for all, or one an image", seeds.size(), images);
  if (seeds.empty()) return {make_generator(std::random_device()())};
  std::vector<at::Generator> all;
  for (auto seed : seeds) all.push_back(make_generator(seed));
  return all;
}

}  // namespace

Tensor StableDiffusionPipeline::encode_prompt(const Prompts& prompt, std::optional<int> clip_skip) const {
  std::vector<Tensor> ids;
  for (const auto& text : prompt) ids.push_back(at::tensor(tokenizer.encode_padded(text), at::kLong));
  return text_encoder.encode(at::stack(ids).to(device()), clip_skip);
}

Tensor StableDiffusionPipeline::generate_latents(const Prompts& prompt, const StableDiffusionOptions& options) const {
  for (const auto& adapter : options.adapters.value_or(std::vector<CallAdapter>())) check_known({adapter.name});
  for (const auto& list : options.adapters_per_image)
    for (const auto& adapter : list) check_known({adapter.name});
  // One picture of the model for the whole run, whatever is set or loaded meanwhile.
  c10::InferenceMode inference;
  RunScope text_run(*text_encoder.parts());
  RunScope unet_run(*unet.parts());

  check(prompt.empty() == options.prompt_embeds.defined(), ErrorKind::usage,
        "give either a prompt or prompt_embeds, not {}", prompt.empty() ? "neither" : "both");
  check(options.num_images_per_prompt >= 1, ErrorKind::usage, "num_images_per_prompt is {}; it must be at least 1",
        options.num_images_per_prompt);
  check(std::isfinite(options.guidance_scale), ErrorKind::usage, "guidance_scale is {}; it must be a number",
        options.guidance_scale);
  auto factor = vae.scale_factor();
  auto height = options.height ? options.height : unet.sample_size() * factor;
  auto width = options.width ? options.width : unet.sample_size() * factor;
  check(height > 0 && width > 0 && height % factor == 0 && width % factor == 0, ErrorKind::usage,
        "the size is {}x{}; width and height must be multiples of {}", width, height, factor);

  auto run = scheduler->clone();
  run->set_timesteps(options.num_inference_steps);

  // Adapters. Where images have their own, each image's text is encoded with them.
  auto prompts = options.prompt_embeds.defined() ? options.prompt_embeds.size(0) : int64_t(prompt.size());
  auto images = prompts * options.num_images_per_prompt;
  bool per_image = !options.adapters_per_image.empty();
  check(!per_image || int64_t(options.adapters_per_image.size()) == images, ErrorKind::usage,
        "adapters_per_image has {} lists for {} images", options.adapters_per_image.size(), images);
  CallAdapterOptions call{.adapters = options.adapters,
                          .per_image = options.adapters_per_image,
                          .scale = options.cross_attention_kwargs.scale};
  auto count = int(run->timesteps().size(0));
  CallAdapters text_adapters(*text_encoder.parts(), "text_encoder", call);
  auto encode = [&](Prompts texts, std::optional<int> clip_skip) {
    if (per_image) {
      Prompts each;
      for (const auto& text : texts) each.insert(each.end(), options.num_images_per_prompt, text);
      texts = std::move(each);
    }
    RunScope scope(*text_encoder.parts(), text_adapters.at(0, count));
    return encode_prompt(texts, clip_skip);
  };

  // Text.
  auto embeds =
      options.prompt_embeds.defined() ? options.prompt_embeds.to(device(), dtype()) : encode(prompt, options.clip_skip);
  auto each_image = [&](const Tensor& t) {
    return t.size(0) == images ? t : t.repeat_interleave(images / t.size(0), 0);
  };
  embeds = each_image(embeds);
  bool guided = options.guidance_scale > 1 && unet.time_cond_proj_dim() == 0;
  if (guided) {
    auto negative = options.negative_prompt;
    if (negative.empty()) negative.push_back("");
    if (negative.size() == 1) negative.resize(prompts, negative.front());
    check(int64_t(negative.size()) == prompts, ErrorKind::usage,
          "{} negative prompts for {} prompts; give one for all, or one each", negative.size(), prompts);
    auto without = options.negative_prompt_embeds.defined() ? options.negative_prompt_embeds.to(device(), dtype())
                                                            : encode(negative, {});
    check(without.sizes().slice(1) == embeds.sizes().slice(1), ErrorKind::bad_shape,
          "negative_prompt_embeds have shape {}, prompt_embeds {}", c10::str(without.sizes()),
          c10::str(embeds.sizes()));
    embeds = at::cat({each_image(without), embeds});
  }
  UNetOptions conditions;
  if (auto dim = unet.time_cond_proj_dim())
    conditions.timestep_cond = guidance_scale_embedding(options.guidance_scale - 1, images, dim).to(device(), dtype());

  // Noise.
  SchedulerStepOptions step_options{.eta = options.eta, .generators = generators(options.seed, images)};
  std::vector<int64_t> shape{images, vae.latent_channels(), height / factor, width / factor};
  check(!options.latents.defined() || options.latents.sizes() == shape, ErrorKind::bad_shape,
        "latents have shape {}, {} is wanted", options.latents.defined() ? c10::str(options.latents.sizes()) : "",
        c10::str(shape));
  auto latents = options.latents.defined() ? options.latents.to(device(), dtype())
                                           : randn_tensor(shape, step_options.generators, dtype(), device());
  latents = latents * run->init_noise_sigma();

  auto unet_call = call;
  unet_call.height = height / factor;
  unet_call.width = width / factor;
  unet_call.tokens = embeds.size(1);
  unet_call.text_width = embeds.size(2);
  CallAdapters unet_adapters(*unet.parts(), "unet", unet_call);
  auto timesteps = run->timesteps();
  for (int i = 0; i < count; ++i) {
    auto t = timesteps[i];
    RunScope scope(*unet.parts(), unet_adapters.at(i, count));
    auto input = run->scale_model_input(guided ? at::cat({latents, latents}) : latents, t);
    auto noise_pred = unet(input, t, embeds, conditions);
    if (guided) {
      auto halves = noise_pred.chunk(2);
      noise_pred = halves[0] + options.guidance_scale * (halves[1] - halves[0]);
      if (options.guidance_rescale > 0) noise_pred = rescale_noise_cfg(noise_pred, halves[1], options.guidance_rescale);
    }
    latents = run->step(noise_pred, t, latents, step_options).prev_sample;
    if (options.callback_on_step_end)
      check(options.callback_on_step_end({i, count, t, latents}), ErrorKind::cancelled, "cancelled after step {} of {}",
            i + 1, count);
  }
  return latents;
}

std::vector<Image> StableDiffusionPipeline::decode_latents(const Tensor& latents) const {
  c10::InferenceMode inference;
  auto pixels = vae.decode(latents.to(device(), vae.dtype()) / vae.scaling_factor() + vae.shift_factor());
  return to_images((pixels * 0.5 + 0.5).clamp(0, 1));
}

std::vector<Image> StableDiffusionPipeline::operator()(const Prompts& prompt,
                                                       const StableDiffusionOptions& options) const {
  return decode_latents(generate_latents(prompt, options));
}

}  // namespace lora
