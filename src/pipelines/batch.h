#pragma once
// The batch of one call: its prompts, its images, their size and their text embeddings.
#include <functional>
#include <optional>

#include "pipelines/call_options.h"
#include "pipelines/prompt_texts.h"

namespace lora {

class Batch {
 public:
  // Checks the arguments that every pipeline reads in the same way. The arguments must outlive the batch. Throws
  // Error{usage, bad_shape} with the argument's name.
  Batch(const DiffusionPipeline& pipe, const Prompts& prompt, const CallOptions& options, const Taken& taken,
        TextWidths widths);

  // Without a size in the call: the first image's, rounded down. Without an image, or where a part of it is drawn:
  // `own`. Throws Error{usage} unless both sides are multiples of `multiple` and at most `largest`, if there is a
  // largest.
  void set_size(int64_t own, int64_t multiple, std::optional<int64_t> largest = {});

  int64_t prompts() const { return prompts_; }
  int64_t images() const { return images_; }
  int64_t height() const { return height_; }  // in pixels
  int64_t width() const { return width_; }

  // Repeats all rows in turns until there is one for each image, as diffusers does with images and masks. Throws
  // Error{usage} with the argument's name where the number of rows does not fit.
  Tensor tiled(const Tensor& rows, const char* name) const;

  // The texts of the prompts or negative prompts: one for each prompt, or one for each image where images have adapters
  // of their own. With guidance, the other half is in them too, unless the call gives its embeddings.
  PromptTexts texts(bool negative, bool guided) const;

  // Embeds texts(negative, …). `positive` has the embeddings of the prompts when `negative` is true.
  using Embed = std::function<TextEmbeddings(bool negative, const TextEmbeddings& positive)>;
  // One row for each image, of the embeddings that the call gives or else of `embed`. With guidance, the negative half
  // comes first. Throws Error{bad_shape} where the halves differ in shape.
  TextEmbeddings embeddings(bool guided, const Embed& embed) const;

 private:
  const DiffusionPipeline& pipe_;
  const Prompts& prompt_;
  const CallOptions& options_;
  int64_t prompts_, images_, height_ = 0, width_ = 0;
  TextEmbeddings given_, given_negative_;  // undefined where the call gives texts

  std::vector<std::string> texts_for(int encoder, bool negative) const;
  TextEmbeddings each_image(const TextEmbeddings& text) const;
};

// Classifier-free guidance on the predictions of the two halves, the negative half first.
Tensor guide(const std::vector<Tensor>& halves, double guidance_scale);

}  // namespace lora
