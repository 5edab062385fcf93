// The loop of every pipeline over latents: text to image, image to image, inpainting.
#include "pipelines/latent_diffusion.h"

#include <ATen/ATen.h>

#include <cmath>

#include "core/check.h"
#include "io/public_call.h"
#include "loaders/registry_of.h"
#include "nn/random.h"
#include "pipelines/batch.h"
#include "pipelines/call_images.h"
#include "pipelines/sound_numbers.h"

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

}  // namespace

class LatentDiffusionPipeline::Call {
 public:
  Call(const LatentDiffusionPipeline& pipe, const Prompts& prompt, const CallOptions& options)
      : pipe_(pipe),
        o_(options),
        traits_(pipe.traits()),
        batch_(pipe, prompt, options, traits_.takes, traits_.text),
        images_(batch_.images()) {
    check_mode();
    const auto factor = pipe.vae.scale_factor();
    const auto largest = traits_.largest ? std::optional(*traits_.largest * factor) : std::nullopt;
    batch_.set_size(traits_.sample_size * factor, size_multiple(), largest);
    pictures_.emplace(o_, batch_.height(), batch_.width());
    if (o_.latents.defined()) check_argument("latents", o_.latents, at::kFloat, latent_shape());
  }

  Tensor run();

 private:
  const LatentDiffusionPipeline& pipe_;
  const CallOptions& o_;
  const Traits traits_;
  Batch batch_;
  const int64_t images_;
  std::optional<CallImages> pictures_;
  int64_t extra_ = 0;  // input channels of the denoiser beyond those of the latents
  double guidance_scale_ = 0;
  bool guided_ = false;

  std::unique_ptr<Scheduler> scheduler_;
  int begin_ = 0, end_ = 0;              // the timesteps of this run
  int whole_begin_ = 0, whole_end_ = 0;  // those without denoising_start and denoising_end
  SchedulerStepOptions step_options_;
  Tensor image_latents_, noise_, mask_, masked_latents_;  // of image-to-image and inpainting

  bool inpaints() const { return !o_.mask_image.empty(); }
  Dtype dtype() const { return pipe_.dtype(); }
  Device device() const { return pipe_.device(); }
  double strength() const { return o_.strength.value_or(inpaints() ? traits_.inpaint_strength : traits_.strength); }
  int count() const { return end_ - begin_; }
  // The steps that adapters' schedules count. The last step of a second-order scheduler has one timestep, not two.
  int whole_steps() const { return (whole_end_ - whole_begin_ + scheduler_->order() - 1) / scheduler_->order(); }
  int64_t size_multiple() const { return pipe_.vae.scale_factor() * traits_.patch_size; }
  std::vector<int64_t> latent_shape(int64_t rows) const {
    auto factor = pipe_.vae.scale_factor();
    return {rows, pipe_.vae.latent_channels(), batch_.height() / factor, batch_.width() / factor};
  }
  std::vector<int64_t> latent_shape() const { return latent_shape(images_); }

  void check_mode();
  void set_timesteps();
  TextEmbeddings embed(CallScope& scope, bool negative) const;
  Conditions conditions(CallScope& scope) const;
  Tensor time_ids() const;
  int64_t drawn_rows(const Tensor& pixels) const;
  Tensor encode(const Tensor& pixels, const char* name) const;
  Tensor first_latents();
  void prepare_mask();
  Tensor predict(const Tensor& latents, const Tensor& t, const Conditions& conditions, int i) const;
  void check_step(const Tensor& latents, int i) const;
};

// ---- Arguments ------------------------------------------------------------------------------------------------------

void LatentDiffusionPipeline::Call::check_mode() {
  check_scheduler_fits(*pipe_.scheduler, traits_.predicts, pipe_.class_name());
  check(o_.eta == 0 || takes_eta(*pipe_.scheduler), ErrorKind::usage,
        "eta is {}, but {} does not use it. DDIMScheduler and TCDScheduler do", o_.eta, pipe_.scheduler->class_name());
  check(o_.eta >= 0 && o_.eta <= 1, ErrorKind::usage, "eta is {}. It must be from 0 to 1", o_.eta);
  for (auto layer : o_.skip_guidance_layers)
    check(layer >= 0 && layer < traits_.layers, ErrorKind::usage,
          "skip_guidance_layers has {}. The model has layers 0 to {}", layer, traits_.layers - 1);
  const std::pair<const char*, std::optional<double>> fractions[] = {{"denoising_start", o_.denoising_start},
                                                                     {"denoising_end", o_.denoising_end}};
  for (const auto& [name, fraction] : fractions)
    check(!fraction || (*fraction > 0 && *fraction < 1), ErrorKind::usage,
          "{} is {}. It is a fraction of the run, above 0 and below 1", name, fraction.value_or(0));
  check(!o_.denoising_start || !o_.denoising_end || *o_.denoising_start < *o_.denoising_end, ErrorKind::usage,
        "denoising_start is {} and denoising_end is {}. The start must come first", o_.denoising_start.value_or(0),
        o_.denoising_end.value_or(0));
  check(!o_.denoising_start || o_.latents.defined() || !o_.image.empty(), ErrorKind::usage,
        "denoising_start needs an image, or the latents of the run before it. Give one of them");
  check(!o_.denoising_start || !o_.latents.defined() || o_.image.empty() || inpaints(), ErrorKind::usage,
        "with denoising_start, the run starts from the latents. Leave the image out, or give a mask_image");
  auto latent = pipe_.vae.latent_channels();
  extra_ = traits_.in_channels - latent;
  check(extra_ == 0 || extra_ == latent + 1, ErrorKind::unsupported,
        "the denoiser has {} input channels. With this VAE it must have {}, or for inpainting {}", traits_.in_channels,
        latent, 2 * latent + 1);
  check(extra_ == 0 || inpaints(), ErrorKind::usage, "this model is for inpainting. Give an image and a mask_image");
}

void LatentDiffusionPipeline::Call::set_timesteps() {
  scheduler_ = pipe_.scheduler->clone();
  auto steps = o_.num_inference_steps.value_or(traits_.steps);
  auto patch = size_multiple();
  auto mu = o_.mu ? o_.mu : pipe_.mu((batch_.height() / patch) * (batch_.width() / patch));
  scheduler_->set_timesteps(steps, {.mu = mu});
  auto timesteps = scheduler_->timesteps();
  end_ = int(timesteps.size(0));

  auto cutoff = [&](double fraction) {
    auto trained = double(scheduler_->num_train_timesteps().value_or(1000));
    return double(std::lround(trained - fraction * trained));
  };
  if (o_.strength || (!o_.image.empty() && !o_.denoising_start)) {
    auto kept = steps * strength();
    auto left_out = traits_.rounds_strength_down ? steps - std::min(int(kept), steps) : int(steps - kept);
    begin_ = left_out * scheduler_->order();
  }
  whole_begin_ = begin_, whole_end_ = end_;
  // The timesteps from `first` up to a fraction of the run, in whole steps.
  auto timesteps_before = [&](double fraction, int first) {
    auto starts = timesteps.slice(0, first, std::nullopt, scheduler_->order());
    return int(starts.ge(cutoff(fraction)).sum().item<int64_t>()) * scheduler_->order();
  };
  if (o_.denoising_start) {
    begin_ = timesteps_before(*o_.denoising_start, 0);
    check(begin_ >= whole_begin_, ErrorKind::usage,
          "denoising_start is {}, but with the strength {} the run starts later. Raise one of them",
          *o_.denoising_start, strength());
  }
  if (o_.denoising_end) end_ = std::min(end_, begin_ + timesteps_before(*o_.denoising_end, begin_));
  check(begin_ < end_, ErrorKind::usage,
        "the run has no steps: none of the {} steps is left. Raise num_inference_steps or strength, or widen the range "
        "from denoising_start to denoising_end",
        steps);
  scheduler_->set_begin_index(begin_);
}

// ---- Text -----------------------------------------------------------------------------------------------------------

TextEmbeddings LatentDiffusionPipeline::Call::embed(CallScope& scope, bool negative) const {
  auto texts = batch_.texts(negative, guided_);
  texts.call = &scope;
  texts.steps = whole_steps();
  return pipe_.embed(texts);
}

LatentDiffusionPipeline::Conditions LatentDiffusionPipeline::Call::conditions(CallScope& scope) const {
  const auto held = scope.hold_text_encoders();  // for both halves
  auto text = batch_.embeddings(guided_, [&](bool negative, const TextEmbeddings& positive) {
    auto own = negative ? pipe_.without_negative_prompt(positive, o_) : TextEmbeddings();
    return own.prompt_embeds.defined() ? own : embed(scope, negative);
  });
  check_sound(text.prompt_embeds, "the text embeddings", pipe_, o_);
  if (text.pooled.defined()) check_sound(text.pooled, "the pooled text embeddings", pipe_, o_);
  Conditions all{.embeds = text.prompt_embeds, .pooled = text.pooled, .time_ids = time_ids(), .timestep_cond = {}};
  if (auto dim = traits_.time_cond_proj_dim)
    all.timestep_cond = guidance_scale_embedding(guidance_scale_ - 1, images_, dim).to(device(), dtype());
  return all;
}

Tensor LatentDiffusionPipeline::Call::time_ids() const {
  auto rows = [&](bool negative) {
    auto ids = pipe_.time_ids(o_, int(batch_.height()), int(batch_.width()), negative);
    return ids.defined() ? ids.to(device(), dtype()).expand({images_, -1}) : ids;
  };
  auto own = rows(false);
  return guided_ && own.defined() ? at::cat({rows(true), own}) : own;
}

// ---- Latents --------------------------------------------------------------------------------------------------------

// How many rows of noise encode() draws for pixels. One seed draws a row for each picture that is given. A seed for
// each image draws a row for each image, as if each were drawn alone.
int64_t LatentDiffusionPipeline::Call::drawn_rows(const Tensor& pixels) const {
  return step_options_.generators.size() > 1 ? images_ : pixels.size(0);
}

// The latents of pictures, one row for each image.
Tensor LatentDiffusionPipeline::Call::encode(const Tensor& pixels, const char* name) const {
  const auto& vae = pipe_.vae;
  auto latents = in_enough_precision(vae, "the latents of the image", [&](const AutoencoderKL& m) {
    return m.encode(pixels.to(m.device(), m.dtype()));
  });
  if (drawn_rows(pixels) == images_)
    latents = {.mean = batch_.tiled(latents.mean, name), .logvar = batch_.tiled(latents.logvar, name)};
  auto drawn = (latents.sample(step_options_.generators) - vae.shift_factor()) * vae.scaling_factor();
  return batch_.tiled(drawn, name).to(device(), dtype());
}

// The latents that the first step takes. Draws random numbers in the order of diffusers' pipelines.
Tensor LatentDiffusionPipeline::Call::first_latents() {
  const auto shape = latent_shape();
  auto given = o_.latents.defined() ? o_.latents.to(device(), dtype()) : Tensor();
  bool from_noise = o_.image.empty() || (inpaints() && strength() == 1);
  if (!o_.image.empty() && !(from_noise && extra_)) image_latents_ = encode(pictures_->pixels() * 2 - 1, "image");
  if (o_.denoising_start) {
    // Inpainting puts the image back under the noise with which the run before this one began.
    if (inpaints()) noise_ = randn_tensor(shape, step_options_.generators, dtype(), device());
    return given.defined() ? given : image_latents_;
  }
  noise_ = given.defined() ? given : randn_tensor(shape, step_options_.generators, dtype(), device());
  if (from_noise) return noise_ * scheduler_->init_noise_sigma();
  auto first = scheduler_->timesteps().slice(0, begin_, begin_ + 1).expand({images_});
  return scheduler_->add_noise(image_latents_, noise_, first);
}

void LatentDiffusionPipeline::Call::prepare_mask() {
  const auto shape = latent_shape();
  auto mask = pictures_->mask();
  auto small = at::upsample_nearest2d(mask, {shape[2], shape[3]});
  mask_ = batch_.tiled(small.to(device(), dtype()), "mask_image");
  auto pixels = pictures_->pixels() * 2 - 1;
  if (extra_) {
    masked_latents_ = encode(pixels * mask.lt(0.5), "image");
    return;
  }
  // diffusers encodes the masked image here too. This draws the same numbers, so that later draws are the same.
  randn_tensor(latent_shape(drawn_rows(pixels)), step_options_.generators, dtype(), device());
}

// ---- The run --------------------------------------------------------------------------------------------------------

Tensor LatentDiffusionPipeline::Call::predict(const Tensor& latents, const Tensor& t, const Conditions& conditions,
                                              int i) const {
  auto input = scheduler_->scale_model_input(guided_ ? at::cat({latents, latents}) : latents, t);
  if (extra_) {
    auto masked = at::cat({mask_, masked_latents_}, 1);
    input = at::cat({input, guided_ ? at::cat({masked, masked}) : masked}, 1);
  }
  auto predicted = pipe_.predict(input, t, conditions);
  if (!guided_) return predicted;
  auto halves = predicted.chunk(2);
  auto guided = guide(halves, guidance_scale_);
  bool skips = i > count() * o_.skip_layer_guidance_start && i < count() * o_.skip_layer_guidance_stop;
  if (!o_.skip_guidance_layers.empty() && skips) {
    Conditions positive{.embeds = conditions.embeds.chunk(2)[1], .pooled = conditions.pooled.chunk(2)[1]};
    auto without = pipe_.predict(input.chunk(2)[1], t, positive, o_.skip_guidance_layers);
    guided = guided + (halves[1] - without) * o_.skip_layer_guidance_scale;
  }
  return o_.guidance_rescale > 0 ? rescale_noise_cfg(guided, halves[1], o_.guidance_rescale) : guided;
}

void LatentDiffusionPipeline::Call::check_step(const Tensor& latents, int i) const {
  check_sound(latents, fmt::format("after step {} of {}, the latents", i + 1, count()), pipe_, o_);
}

Tensor LatentDiffusionPipeline::Call::run() {
  guidance_scale_ = o_.guidance_scale.value_or(inpaints() ? traits_.inpaint_guidance_scale : traits_.guidance_scale);
  guided_ = guidance_scale_ > 1 && traits_.time_cond_proj_dim == 0;
  if (!guided_) note_unguided(o_, guidance_scale_);
  set_timesteps();
  step_options_ = {.eta = o_.eta, .generators = generators(o_.seed, images_)};
  // One snapshot of all adapters for the whole run: what other threads set or load meanwhile does not matter.
  const auto shape = latent_shape();
  CallScope scope(registry_of(pipe_), o_, images_, o_.cross_attention_kwargs.scale * o_.joint_attention_kwargs.scale,
                  {traits_.denoiser, shape[2], shape[3]});
  const auto fixed = conditions(scope);
  auto latents = first_latents();
  if (inpaints()) prepare_mask();

  auto timesteps = scheduler_->timesteps();
  const auto held = scope.hold(traits_.denoiser);  // for all steps
  for (int i = 0; i < count(); ++i) {
    auto t = timesteps[begin_ + i];
    auto run = scope.on(traits_.denoiser, (begin_ - whole_begin_ + i) / scheduler_->order(), whole_steps());
    latents = scheduler_->step(predict(latents, t, fixed, i), t, latents, step_options_).prev_sample;
    check_step(latents, i);
    if (inpaints() && !extra_) {
      auto kept = image_latents_;
      // Also after the last step of this call, if another call goes on from there.
      if (const int next = begin_ + i + 1; next < whole_end_)
        kept = scheduler_->add_noise(kept, noise_, timesteps[next].reshape(1));
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
    check_sound(latents, "the latents", *this, {});
    auto pixels = in_enough_precision(vae, "the pixels", [&](const AutoencoderKL& m) {
      return m.decode(latents.to(m.device(), m.dtype()) / m.scaling_factor() + m.shift_factor());
    });
    return to_images((pixels * 0.5 + 0.5).clamp(0, 1));
  });
}

TextEmbeddings LatentDiffusionPipeline::without_negative_prompt(const TextEmbeddings&, const CallOptions&) const {
  return {};
}

Tensor LatentDiffusionPipeline::time_ids(const CallOptions&, int, int, bool) const { return {}; }

std::optional<double> LatentDiffusionPipeline::mu(int64_t) const { return {}; }

}  // namespace lora
