// Shows the steps of a run, starts it from given noise, and cancels it after five steps: progress MODEL
#include <ATen/ATen.h>
#include <lora/lora.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 2) return std::puts("usage: progress MODEL"), 2;
  auto pipe = lora::StableDiffusionPipeline::from_pretrained(argv[1], {.scheduler = "euler"});
  lora::CallOptions options{.num_inference_steps = 10, .guidance_scale = 4};
  options.latents = at::randn({1, pipe.vae.latent_channels(), 16, 16});
  options.callback_on_step_end = [](const lora::StepEnd& step) {
    std::printf("step %d of %d\n", step.step + 1, step.num_steps);
    return step.step + 1 < 5;
  };
  try {
    pipe("rocket", options);
  } catch (const lora::Error& error) {
    std::printf("%s: %s\n", to_string(error.kind()), error.what());
    return error.kind() == lora::ErrorKind::cancelled ? 0 : 1;
  }
  return 1;
}
