// Fuses a LoRA into the weights, draws an image, and restores the weights exactly: fuse MODEL LORA
#include <lora/lora.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 3) return std::puts("usage: fuse MODEL LORA"), 2;
  auto pipe = lora::StableDiffusionPipeline::from_pretrained(argv[1]);
  lora::CallOptions options{.num_inference_steps = 20, .guidance_scale = 4, .seed = 0};
  auto before = pipe("rocket", options).front();

  pipe.load_lora_weights(argv[2], {.adapter_name = "style"});
  pipe.fuse_lora({.lora_scale = 0.8, .safe_fusing = true});
  pipe("rocket", options).front().save("rocket-fused.png");

  pipe.unfuse_lora();
  pipe.disable_lora();
  bool same = pipe("rocket", options).front().pixels == before.pixels;
  std::puts(same ? "the image is the same as before" : "the image is NOT the same as before");
  return same ? 0 : 1;
}
