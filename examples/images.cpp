// Draws an image, starts from it again, and draws a half of it anew: images MODEL
#include <lora/lora.h>

#include <algorithm>
#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 2) return std::puts("usage: images MODEL"), 2;
  auto pipe = lora::StableDiffusionPipeline::from_pretrained(argv[1]);
  auto [first, second] = std::pair("a cute penguin", "a red rocket");

  auto image = pipe(first, {.num_inference_steps = 20, .seed = 7}).front();
  image.save("images-first.png");

  // Image-to-image: one image for both prompts, and one seed for each.
  lora::CallOptions again{
      .image = lora::Image::load("images-first.png"), .strength = 0.6, .num_inference_steps = 20, .seed = {1, 2}};
  for (int i = 0; const auto& drawn : pipe({first, second}, again))
    drawn.save("images-again-" + std::to_string(i++) + ".png");

  // Inpainting: white in the mask's lower half.
  auto mask = image;
  auto middle = mask.pixels.begin() + std::ptrdiff_t(mask.pixels.size() / 2);
  std::fill(mask.pixels.begin(), middle, uint8_t(0));
  std::fill(middle, mask.pixels.end(), uint8_t(255));
  mask.save("images-mask.png");
  pipe(second, {.image = image, .mask_image = lora::Image::load("images-mask.png"), .num_inference_steps = 20})
      .front()
      .save("images-inpainted.png");
}
