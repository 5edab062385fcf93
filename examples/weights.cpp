// Weights by block, over the steps, for one call, and for each image of a batch: weights MODEL LORA LORA
#include <lora/lora.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 4) return std::puts("usage: weights MODEL LORA LORA"), 2;
  auto pipe = lora::StableDiffusionPipeline::from_pretrained(argv[1]);
  pipe.load_lora_weights(argv[2], {.adapter_name = "first"});
  pipe.load_lora_weights(argv[3], {.adapter_name = "second"});
  lora::CallOptions options{.num_inference_steps = 10, .guidance_scale = 4, .seed = {0}};

  // Little of it where the UNet goes down, all of it where it goes up, half of it in the text encoder.
  pipe.set_adapters({"first"}, {{{"unet", {{"down", 0.2}, {"up", 1.0}}}, {"text_encoder", 0.5}}});
  pipe("a cute penguin", options).front().save("penguin-blocks.png");

  // In this call alone: the second LoRA in the first half of the steps.
  auto once = options;
  once.adapters = {{.name = "second", .schedule = lora::LoraSchedule::by_fraction({{0, 1}, {0.5, 0}})}};
  pipe("a cute penguin", once).front().save("penguin-schedule.png");

  // Three images in one batch: the first LoRA, the second, and none.
  auto batch = options;
  batch.num_images_per_prompt = 3;
  batch.adapters_per_image = {{{.name = "first"}}, {{.name = "second", .weight = 0.7}}, {}};
  for (int i = 0; const auto& image : pipe("a cute penguin", batch))
    image.save("penguin-" + std::to_string(i++) + ".png");
}
