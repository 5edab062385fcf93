#pragma once
// The images of a call: what a pipeline draws from, and for inpainting what it puts back afterwards.
#include "lora/call_options.h"
#include "pipelines/image_processor.h"

namespace lora {

// Throws Error{usage} naming an argument that does not fit the images of a call, or that needs one. Notes masks that
// are stretched, and masks without effect.
void check_images(const CallOptions& options);

class CallImages {
 public:
  // For a run that draws height × width pixels. Throws Error{usage} where nothing of a mask is left to draw.
  CallImages(const CallOptions& options, int64_t height, int64_t width);

  // float32 [N, 3, height, width] in [0, 1]. N is the number of images that the call gives, or more of them, in turns,
  // where each is cropped by masks of its own.
  Tensor pixels() const;
  // float32 [N, 1, height, width]: 1 where the mask is at least half white, else 0. By default the run's size.
  Tensor mask() const { return mask(height_, width_); }
  Tensor mask(int64_t height, int64_t width) const;
  // The images that the run drew, with what the call wants to be put back.
  std::vector<Image> with_overlay(std::vector<Image> drawn) const;

 private:
  const CallOptions& options_;
  int64_t height_, width_;
  std::vector<Tensor> images_, masks_;  // uint8 [1, 3, h, w] of any size; the masks inverted and blurred
  std::vector<Region> regions_;         // with padding_mask_crop, for each image

  void crop();
  // Of the size that the run draws, or of another.
  Tensor fitted(const std::vector<Tensor>& bytes, int64_t height, int64_t width) const;
};

}  // namespace lora
