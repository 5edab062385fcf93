// Adapter weights for each block, for each step, and for each image of a batch: weights MODEL LORA LORA
#include <lora/lora.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 4) return std::puts("usage: weights MODEL LORA LORA"), 2;
  auto pipe = lora::StableDiffusionPipeline::from_pretrained(argv[1]);
  pipe.load_lora_weights(argv[2], {.adapter_name = "first"});
  pipe.load_lora_weights(argv[3], {.adapter_name = "second"});
  lora::CallOptions options{.num_inference_steps = 10, .guidance_scale = 4, .seed = 0};

  // Weight 0.2 in the UNet's down blocks, 1 in its up blocks, 0.5 in the text encoder.
  pipe.set_adapters({"first"}, {{{"unet", {{"down", 0.2}, {"up", 1.0}}}, {"text_encoder", 0.5}}});
  pipe("a cute penguin", options).front().save("penguin-blocks.png");

  // In this call only: the second LoRA, in the first half of the steps.
  auto once = options;
  once.adapters = {{.name = "second", .schedule = lora::LoraSchedule::by_fraction({{0, 1}, {0.5, 0}})}};
  pipe("a cute penguin", once).front().save("penguin-schedule.png");

  // Three images in one batch: one with the first LoRA, one with the second, one without.
  auto batch = options;
  batch.num_images_per_prompt = 3;
  batch.adapters_per_image = {{{.name = "first"}}, {{.name = "second", .weight = 0.7}}, {}};
  for (int i = 0; const auto& image : pipe("a cute penguin", batch))
    image.save("penguin-" + std::to_string(i++) + ".png");
}
