// Draws one prompt without a LoRA, with one LoRA, and with two: generate MODEL LORA LORA
#include <lora/lora.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 4) return std::puts("usage: generate MODEL LORA LORA"), 2;
  auto pipe = lora::StableDiffusionPipeline::from_pretrained(argv[1]);
  lora::CallOptions options{.num_inference_steps = 20, .guidance_scale = 4, .seed = 0};

  pipe("a cute penguin", options).front().save("penguin.png");

  auto report = pipe.load_lora_weights(argv[2], {.adapter_name = "first"});
  std::printf("%s", report.text().c_str());
  pipe("a cute penguin", options).front().save("penguin-first.png");

  pipe.load_lora_weights(argv[3], {.adapter_name = "second"});
  pipe.set_adapters({"first", "second"}, {0.6, 0.4});
  pipe("a cute penguin", options).front().save("penguin-both.png");
}
