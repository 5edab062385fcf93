#include "pipelines/batch.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>

#include "core/check.h"
#include "pipelines/call_images.h"

namespace lora {

Batch::Batch(const DiffusionPipeline& pipe, const Prompts& prompt, const CallOptions& options, const Taken& taken,
             TextWidths widths)
    : pipe_(pipe), prompt_(prompt), options_(options) {
  check_taken(options, taken, pipe.class_name());
  check_images(options);
  check_scheduler(pipe);
  prompts_ = count_prompts(prompt, options);
  images_ = prompts_ * options.num_images_per_prompt;
  given_ = given_embeddings(options, /*negative=*/false, prompts_, widths);
  given_negative_ = given_embeddings(options, /*negative=*/true, prompts_, widths);
}

void Batch::set_size(int64_t own, int64_t multiple, std::optional<int64_t> largest) {
  const auto& images = options_.image;
  auto side = [&](int given, int Image::*of) {
    if (given) return int64_t(given);
    if (images.empty() || options_.padding_mask_crop) return own;
    const auto& image = images.front();
    check(image.*of >= multiple, ErrorKind::usage,
          "the image has {}x{} pixels. Each side must have at least {}, or give height and width", image.width,
          image.height, multiple);
    const auto rounded = image.*of / multiple * multiple;
    if (rounded != image.*of)
      note(options_, fmt::format("the {} of the image is {} pixels. It is resized to {}, a multiple of {}",
                                 of == &Image::height ? "height" : "width", image.*of, rounded, multiple));
    return rounded;
  };
  height_ = side(options_.height, &Image::height);
  width_ = side(options_.width, &Image::width);
  check(height_ > 0 && width_ > 0 && height_ % multiple == 0 && width_ % multiple == 0, ErrorKind::usage,
        "the size is {}x{}. width and height must be multiples of {}", width_, height_, multiple);
  check(std::max(height_, width_) <= largest.value_or(INT64_MAX), ErrorKind::usage,
        "the size is {}x{}. width and height must be at most {}, the largest that this model draws", width_, height_,
        largest.value_or(0));
}

Tensor Batch::tiled(const Tensor& rows, const char* name) const {
  check(images_ % rows.size(0) == 0, ErrorKind::usage,
        "{} has {} images for a batch of {}. Give one for all prompts, or one for each", name, rows.size(0), images_);
  std::vector<int64_t> times(size_t(rows.dim()), 1);
  times[0] = images_ / rows.size(0);
  return rows.size(0) == images_ ? rows : rows.repeat(times);
}

PromptTexts Batch::texts(bool negative, bool guided) const {
  PromptTexts texts{.syntax = options_.prompt_syntax,
                    .max_sequence_length = options_.max_sequence_length,
                    .negative = negative,
                    .options = &options_};
  if (!negative) texts.clip_skip = options_.clip_skip;
  const bool other_is_text = guided && !(negative ? given_ : given_negative_).prompt_embeds.defined();
  for (int i = 0; i < 3; ++i) {
    texts.by_encoder[i] = texts_for(i, negative);
    if (other_is_text) texts.other_half[i] = texts_for(i, !negative);
  }
  return texts;
}

// The texts that one text encoder takes. `encoder` counts from 0.
std::vector<std::string> Batch::texts_for(int encoder, bool negative) const {
  const auto& o = options_;
  const std::pair<const char*, const Prompts*> all[2][3] = {
      {{"prompt", &prompt_}, {"prompt_2", &o.prompt_2}, {"prompt_3", &o.prompt_3}},
      {{"negative_prompt", &o.negative_prompt},
       {"negative_prompt_2", &o.negative_prompt_2},
       {"negative_prompt_3", &o.negative_prompt_3}}};
  const auto& first = *all[negative][0].second;
  const auto& [name, given] = all[negative][encoder];
  const auto& texts = given->empty() ? first : *given;
  const auto repeats = o.adapters_per_image.empty() ? 1 : int64_t(o.num_images_per_prompt);
  return spread(texts.empty() ? Prompts("") : texts, prompts_, repeats, name);
}

TextEmbeddings Batch::each_image(const TextEmbeddings& text) const {
  auto rows = [&](const Tensor& t) {
    if (!t.defined()) return t;
    auto own = t.to(pipe_.device(), pipe_.dtype());
    // The images of one prompt lie together. diffusers' AmusedPipeline repeats the whole batch instead.
    return own.size(0) == images_ ? own : own.repeat_interleave(images_ / own.size(0), 0);
  };
  return {rows(text.prompt_embeds), rows(text.pooled)};
}

TextEmbeddings Batch::embeddings(bool guided, const Embed& embed) const {
  const auto text = given_.prompt_embeds.defined() ? given_ : embed(/*negative=*/false, {});
  const auto positive = each_image(text);
  if (!guided) return positive;
  const auto negative =
      each_image(given_negative_.prompt_embeds.defined() ? given_negative_ : embed(/*negative=*/true, text));
  check(negative.prompt_embeds.sizes() == positive.prompt_embeds.sizes(), ErrorKind::bad_shape,
        "negative_prompt_embeds have shape {}, but prompt_embeds have shape {}. Give both the same shape",
        c10::str(negative.prompt_embeds.sizes()), c10::str(positive.prompt_embeds.sizes()));
  return {at::cat({negative.prompt_embeds, positive.prompt_embeds}),
          positive.pooled.defined() ? at::cat({negative.pooled, positive.pooled}) : Tensor()};
}

Tensor guide(const std::vector<Tensor>& halves, double guidance_scale) {
  return halves[0] + guidance_scale * (halves[1] - halves[0]);
}

}  // namespace lora
