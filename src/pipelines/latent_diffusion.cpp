// The loop of every pipeline over latents: text to image, image to image, inpainting.
#include "pipelines/latent_diffusion.h"

#include <ATen/ATen.h>

#include <cmath>

#include "core/check.h"
#include "core/text.h"
#include "io/png.h"
#include "io/public_call.h"
#include "loaders/registry_of.h"
#include "nn/random.h"
#include "pipelines/pictures.h"
#include "pipelines/pipeline_files.h"

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

// Fewer rows for a batch: all of them over and over, as diffusers repeats pictures and masks.
Tensor tiled(const Tensor& t, int64_t images, const char* name) {
  check(images % t.size(0) == 0, ErrorKind::usage, "{} {}s for {} pictures; give one for all, or one each", t.size(0),
        name, images);
  return t.size(0) == images ? t : t.repeat({images / t.size(0), 1, 1, 1});
}

bool within(const std::optional<double>& fraction) { return fraction && *fraction > 0 && *fraction < 1; }

}  // namespace

class LatentDiffusionPipeline::Call {
 public:
  Call(const LatentDiffusionPipeline& pipe, const Prompts& prompt, const CallOptions& options)
      : pipe_(pipe), prompt_(prompt), o_(options), traits_(pipe.traits()) {
    check_taken(o_, traits_.takes, pipe.class_name());
    pipe.check_scheduler();
    prompts_ = count_prompts(prompt, o_);
    images_ = prompts_ * o_.num_images_per_prompt;
    given_ = given_embeddings(o_, /*negative=*/false, prompts_, traits_.text);
    given_negative_ = given_embeddings(o_, /*negative=*/true, prompts_, traits_.text);
    check_mode();
    set_size();
    if (o_.latents.defined()) check_argument("latents", o_.latents, at::kFloat, latent_shape());
  }

  Tensor run();

 private:
  const LatentDiffusionPipeline& pipe_;
  const Prompts& prompt_;
  const CallOptions& o_;
  const Traits traits_;
  int64_t prompts_, images_, height_, width_;  // pixels
  TextEmbeddings given_, given_negative_;      // in place of texts
  int64_t extra_ = 0;                          // channels of the denoiser beyond the latents'
  double guidance_scale_ = 0;
  bool guided_ = false;

  std::unique_ptr<Scheduler> scheduler_;
  int begin_ = 0, end_ = 0;  // the timesteps of this run
  SchedulerStepOptions step_options_;
  Tensor image_latents_, noise_, mask_, masked_latents_;  // of image-to-image and inpainting

  bool inpaints() const { return !o_.mask_image.empty(); }
  Dtype dtype() const { return pipe_.dtype(); }
  Device device() const { return pipe_.device(); }
  double strength() const { return o_.strength.value_or(inpaints() ? traits_.inpaint_strength : traits_.strength); }
  int count() const { return end_ - begin_; }
  std::vector<int64_t> latent_shape() const {
    auto factor = pipe_.vae.scale_factor();
    return {images_, pipe_.vae.latent_channels(), height_ / factor, width_ / factor};
  }

  void check_mode();
  void set_size();
  void set_timesteps();
  TextEmbeddings embed(CallScope& scope, bool negative) const;
  Conditions conditions(CallScope& scope) const;
  Tensor time_ids() const;
  Tensor encode(const Tensor& pixels) const;
  Tensor start();
  void prepare_mask();
  Tensor guide(const Tensor& latents, const Tensor& t, const Conditions& given, int i) const;
};

// ---- What is asked --------------------------------------------------------------------------------------------------

void LatentDiffusionPipeline::Call::check_mode() {
  for (const auto& image : o_.image) check_pixels(image, "image");
  for (const auto& image : o_.mask_image) check_pixels(image, "mask_image");
  for (auto layer : o_.skip_guidance_layers)
    check(layer >= 0 && layer < traits_.layers, ErrorKind::usage,
          "skip_guidance_layers has {}; the model has the layers 0 to {}", layer, traits_.layers - 1);
  check(o_.mask_image.empty() || !o_.image.empty(), ErrorKind::usage, "mask_image is given without an image to mask");
  check(!o_.strength || !o_.image.empty(), ErrorKind::usage, "strength is given without an image to start from");
  check(strength() > 0 && strength() <= 1, ErrorKind::usage, "strength is {}; it must be in (0, 1]", strength());
  check(!o_.denoising_start || o_.latents.defined() || !o_.image.empty(), ErrorKind::usage,
        "denoising_start needs the latents of the run before it, or an image");
  auto latent = pipe_.vae.latent_channels();
  extra_ = traits_.in_channels - latent;
  check(extra_ == 0 || extra_ == latent + 1, ErrorKind::unsupported,
        "the denoiser has {} input channels; {} or, for inpainting, {} go with this VAE", traits_.in_channels, latent,
        2 * latent + 1);
  check(extra_ == 0 || inpaints(), ErrorKind::usage, "this is a model for inpainting: give an image and a mask_image");
}

void LatentDiffusionPipeline::Call::set_size() {
  auto multiple = pipe_.vae.scale_factor() * traits_.patch_size;
  auto own = traits_.sample_size * pipe_.vae.scale_factor();
  auto side = [&](int given, int Image::*of) {
    if (given) return int64_t(given);
    return o_.image.empty() ? own : o_.image.front().*of / multiple * multiple;
  };
  height_ = side(o_.height, &Image::height);
  width_ = side(o_.width, &Image::width);
  check(height_ > 0 && width_ > 0 && height_ % multiple == 0 && width_ % multiple == 0, ErrorKind::usage,
        "the size is {}x{}; width and height must be multiples of {}", width_, height_, multiple);
}

void LatentDiffusionPipeline::Call::set_timesteps() {
  scheduler_ = pipe_.scheduler->clone();
  auto steps = o_.num_inference_steps.value_or(traits_.steps);
  auto factor = pipe_.vae.scale_factor() * traits_.patch_size;
  auto mu = o_.mu ? o_.mu : pipe_.mu((height_ / factor) * (width_ / factor));
  scheduler_->set_timesteps(steps, {.mu = mu});
  auto timesteps = scheduler_->timesteps();
  end_ = int(timesteps.size(0));

  auto cutoff = [&](double fraction) {
    auto trained = config_of(*scheduler_).value("num_train_timesteps", 1000);
    return double(std::lround(trained - fraction * trained));
  };
  if (within(o_.denoising_start)) {
    auto left = timesteps.lt(cutoff(*o_.denoising_start)).sum().item<int64_t>();
    if (scheduler_->order() == 2 && left % 2 == 0) ++left;
    begin_ = end_ - int(left);
  } else if (!o_.image.empty()) {
    auto kept = steps * strength();
    auto left_out = traits_.rounds_strength_down ? steps - std::min(int(kept), steps) : int(steps - kept);
    begin_ = left_out * scheduler_->order();
  }
  if (within(o_.denoising_end)) {
    check(!within(o_.denoising_start) || *o_.denoising_start < *o_.denoising_end, ErrorKind::usage,
          "denoising_start {} is not before denoising_end {}", o_.denoising_start.value_or(0), *o_.denoising_end);
    end_ = begin_ + int(timesteps.slice(0, begin_).ge(cutoff(*o_.denoising_end)).sum().item<int64_t>());
  }
  check(begin_ < end_, ErrorKind::usage, "of {} steps, strength {:g} leaves none", steps, strength());
  scheduler_->set_begin_index(begin_);
}

// ---- Text -----------------------------------------------------------------------------------------------------------

TextEmbeddings LatentDiffusionPipeline::Call::embed(CallScope& scope, bool negative) const {
  // Where images have adapters of their own, each image's text is encoded with them.
  auto repeats = o_.adapters_per_image.empty() ? 1 : int64_t(o_.num_images_per_prompt);
  Texts texts{.max_sequence_length = o_.max_sequence_length, .call = &scope, .steps = count()};
  const Prompts* given[2][3] = {{&prompt_, &o_.prompt_2, &o_.prompt_3},
                                {&o_.negative_prompt, &o_.negative_prompt_2, &o_.negative_prompt_3}};
  const char* names[2][3] = {{"prompt", "prompt_2", "prompt_3"},
                             {"negative_prompt", "negative_prompt_2", "negative_prompt_3"}};
  std::vector<std::string> first = *given[negative][0];
  if (first.empty()) first = {""};
  for (int i = 0; i < 3; ++i)
    texts.by_encoder[i] = spread(*given[negative][i], first, prompts_, repeats, names[negative][i]);
  if (!negative) texts.clip_skip = o_.clip_skip;
  return pipe_.embed(texts);
}

LatentDiffusionPipeline::Conditions LatentDiffusionPipeline::Call::conditions(CallScope& scope) const {
  auto each_image = [&](const Tensor& t) {
    if (!t.defined()) return t;
    auto own = t.to(device(), dtype());
    return own.size(0) == images_ ? own : own.repeat_interleave(images_ / own.size(0), 0);
  };
  auto text = given_.prompt_embeds.defined() ? given_ : embed(scope, /*negative=*/false);
  Conditions all{.embeds = each_image(text.prompt_embeds), .pooled = each_image(text.pooled)};
  if (guided_) {
    auto without = given_negative_.prompt_embeds.defined() ? given_negative_ : pipe_.no_text(text, o_);
    if (!without.prompt_embeds.defined()) without = embed(scope, /*negative=*/true);
    auto embeds = each_image(without.prompt_embeds);
    check(embeds.sizes() == all.embeds.sizes(), ErrorKind::bad_shape,
          "negative_prompt_embeds have shape {}, prompt_embeds {}", c10::str(embeds.sizes()),
          c10::str(all.embeds.sizes()));
    all.embeds = at::cat({embeds, all.embeds});
    if (all.pooled.defined()) all.pooled = at::cat({each_image(without.pooled), all.pooled});
  }
  all.time_ids = time_ids();
  if (auto dim = traits_.time_cond_proj_dim)
    all.timestep_cond = guidance_scale_embedding(guidance_scale_ - 1, images_, dim).to(device(), dtype());
  return all;
}

Tensor LatentDiffusionPipeline::Call::time_ids() const {
  auto rows = [&](bool negative) {
    auto ids = pipe_.time_ids(o_, int(height_), int(width_), negative);
    return ids.defined() ? ids.to(device(), dtype()).expand({images_, -1}) : ids;
  };
  auto own = rows(false);
  return guided_ && own.defined() ? at::cat({rows(true), own}) : own;
}

// ---- Latents --------------------------------------------------------------------------------------------------------

Tensor LatentDiffusionPipeline::Call::encode(const Tensor& pixels) const {
  auto generators = step_options_.generators;
  if (generators.size() > 1) generators.resize(size_t(pixels.size(0)));
  const auto& vae = pipe_.vae;
  auto latents = vae.encode(pixels.to(vae.device(), vae.dtype())).sample(generators);
  return ((latents - vae.shift_factor()) * vae.scaling_factor()).to(device(), dtype());
}

// The latents that the first step takes. Random numbers are drawn in the order of diffusers' pipelines.
Tensor LatentDiffusionPipeline::Call::start() {
  const auto shape = latent_shape();
  auto given = o_.latents.defined() ? o_.latents.to(device(), dtype()) : Tensor();
  if (o_.image.empty() && o_.denoising_start) return given;

  bool from_noise = o_.image.empty() || (inpaints() && strength() == 1);
  if (!o_.image.empty() && !(from_noise && extra_)) {
    auto pixels = to_pixels(o_.image, height_, width_);
    if (!inpaints() && step_options_.generators.size() > 1) pixels = tiled(pixels, images_, "image");
    image_latents_ = tiled(encode(pixels), images_, "image");
    if (o_.denoising_start) return image_latents_;
  }
  noise_ = given.defined() ? given : randn_tensor(shape, step_options_.generators, dtype(), device());
  if (from_noise) return noise_ * scheduler_->init_noise_sigma();
  auto first = scheduler_->timesteps().slice(0, begin_, begin_ + 1).expand({images_});
  return scheduler_->add_noise(image_latents_, noise_, first);
}

void LatentDiffusionPipeline::Call::prepare_mask() {
  auto factor = pipe_.vae.scale_factor();
  auto mask = to_mask(o_.mask_image, height_, width_);
  auto small = at::upsample_nearest2d(mask, {height_ / factor, width_ / factor});
  mask_ = tiled(small.to(device(), dtype()), images_, "mask_image");
  auto pixels = to_pixels(o_.image, height_, width_);
  if (extra_) {
    masked_latents_ = tiled(encode(pixels * mask.lt(0.5)), images_, "image");
    return;
  }
  // What the masked picture's encoding would draw: later draws come after it.
  auto generators = step_options_.generators;
  if (generators.size() > 1) generators.resize(size_t(pixels.size(0)));
  randn_tensor({pixels.size(0), pipe_.vae.latent_channels(), height_ / factor, width_ / factor}, generators, dtype(),
               device());
}

// ---- The run --------------------------------------------------------------------------------------------------------

Tensor LatentDiffusionPipeline::Call::guide(const Tensor& latents, const Tensor& t, const Conditions& given,
                                            int i) const {
  auto input = scheduler_->scale_model_input(guided_ ? at::cat({latents, latents}) : latents, t);
  if (extra_) {
    auto shown = at::cat({mask_, masked_latents_}, 1);
    input = at::cat({input, guided_ ? at::cat({shown, shown}) : shown}, 1);
  }
  auto predicted = pipe_.predict(input, t, given);
  if (!guided_) return predicted;
  auto halves = predicted.chunk(2);
  auto guided = halves[0] + guidance_scale_ * (halves[1] - halves[0]);
  bool skips = i > count() * o_.skip_layer_guidance_start && i < count() * o_.skip_layer_guidance_stop;
  if (!o_.skip_guidance_layers.empty() && skips) {
    Conditions positive{.embeds = given.embeds.chunk(2)[1], .pooled = given.pooled.chunk(2)[1]};
    auto without = pipe_.predict(input.chunk(2)[1], t, positive, o_.skip_guidance_layers);
    guided = guided + (halves[1] - without) * o_.skip_layer_guidance_scale;
  }
  return o_.guidance_rescale > 0 ? rescale_noise_cfg(guided, halves[1], o_.guidance_rescale) : guided;
}

Tensor LatentDiffusionPipeline::Call::run() {
  guidance_scale_ = o_.guidance_scale.value_or(inpaints() ? traits_.inpaint_guidance_scale : traits_.guidance_scale);
  guided_ = guidance_scale_ > 1 && traits_.time_cond_proj_dim == 0;
  set_timesteps();
  step_options_ = {.eta = o_.eta, .generators = generators(o_.seed, images_)};
  // One snapshot of all adapters for the whole run, whatever is set or loaded meanwhile.
  const auto shape = latent_shape();
  CallScope scope(registry_of(pipe_), o_, images_, o_.cross_attention_kwargs.scale * o_.joint_attention_kwargs.scale,
                  {traits_.denoiser, shape[2], shape[3]});
  auto given = conditions(scope);
  auto latents = start();
  if (inpaints()) prepare_mask();

  auto timesteps = scheduler_->timesteps();
  for (int i = 0; i < count(); ++i) {
    auto t = timesteps[begin_ + i];
    auto pass = scope.on(traits_.denoiser, i, count());
    latents = scheduler_->step(guide(latents, t, given, i), t, latents, step_options_).prev_sample;
    if (inpaints() && !extra_) {
      auto kept = image_latents_;
      if (i + 1 < count()) kept = scheduler_->add_noise(kept, noise_, timesteps[begin_ + i + 1].reshape(1));
      latents = (1 - mask_) * kept + mask_ * latents;
    }
    report_step(o_, i, count(), t, latents, scope.snapshot());
  }
  return latents;
}

// ---- The pipeline ---------------------------------------------------------------------------------------------------

LatentDiffusionPipeline::LatentDiffusionPipeline(AutoencoderKL given_vae, std::shared_ptr<const Scheduler> given)
    : DiffusionPipeline(std::move(given)), vae(std::move(given_vae)) {}

Tensor LatentDiffusionPipeline::generate_latents(const Prompts& prompt, const CallOptions& options) const {
  return public_call([&] { return Call(*this, prompt, options).run(); });
}

std::vector<Image> LatentDiffusionPipeline::decode_latents(const Tensor& latents) const {
  return public_call([&] {
    auto pixels = vae.decode(latents.to(vae.device(), vae.dtype()) / vae.scaling_factor() + vae.shift_factor());
    return to_images((pixels * 0.5 + 0.5).clamp(0, 1));
  });
}

TextEmbeddings LatentDiffusionPipeline::no_text(const TextEmbeddings&, const CallOptions&) const { return {}; }

Tensor LatentDiffusionPipeline::time_ids(const CallOptions&, int, int, bool) const { return {}; }

std::optional<double> LatentDiffusionPipeline::mu(int64_t) const { return {}; }

Tensor tokenize(const CLIPTokenizer& tokenizer, const CLIPTextModel& model, const std::vector<std::string>& texts) {
  auto with_words = tokenizer.with_words(model.added_words());
  std::vector<Tensor> ids;
  for (const auto& text : texts) ids.push_back(at::tensor(with_words.encode_padded(text), at::kLong));
  return at::stack(ids).to(model.device());
}

TextEmbeddings penultimate(const CLIPTextModel& model, const Tensor& ids, std::optional<int> clip_skip) {
  const auto skipped = int64_t(clip_skip.value_or(0)) + 1;
  check(skipped >= 1 && skipped <= model.num_hidden_layers(), ErrorKind::usage,
        "clip_skip {} is not in 0 … {}: this pipeline reads the last layer but one", clip_skip.value_or(0),
        model.num_hidden_layers() - 1);
  auto out = model(ids);
  return {out.hidden_states[out.hidden_states.size() - 1 - size_t(skipped)], out.text_embeds};
}

}  // namespace lora
