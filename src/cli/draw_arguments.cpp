#include "draw_arguments.h"

#include <fmt/ranges.h>

#include <charconv>
#include <utility>

#include "check.h"
#include "output.h"

namespace lora::cli {

namespace {

// "512x768" is width by height.
std::pair<int, int> parse_size(const std::string& text) {
  if (text.empty()) return {0, 0};
  int width = 0, height = 0;
  const char *first = text.data(), *last = first + text.size();
  auto [x, error] = std::from_chars(first, last, width);
  bool valid = error == std::errc() && x != last && *x == 'x';
  if (valid) valid = std::from_chars(x + 1, last, height).ptr == last;
  check(valid && width > 0 && height > 0, ErrorKind::usage, "--size {}: the form is WIDTHxHEIGHT, such as 512x768",
        text);
  return {width, height};
}

}  // namespace

void DrawArguments::declare(CLI::App& command) {
  model.declare(command);
  model.declare_prediction_type(command);
  model.declare_embeddings(command);
  prompts.declare(command);
  command.add_option("--steps", steps, "Denoising steps. Default: 50, SD 3 28, aMUSEd 12.");
  command.add_option("--cfg", cfg, "Guidance scale; 1 is no guidance. Default: SD 7.5, SDXL 5, SD 3 7, aMUSEd 10.");
  command
      .add_option(
          "--seed", seed,
          "The seed of the first picture: a whole number, or -1 for a random one. Each further picture takes the "
          "next number. Default: -1.")
      ->type_name("UINT");
  command.add_option("--size", size, "WIDTHxHEIGHT in pixels. Default: the size of --image, else the model's own.");
  pictures.declare(command);
  command.add_option("--scheduler", scheduler,
                     fmt::format("{}; or the name of A1111 or diffusers. Default: the model's own.",
                                 fmt::join(Scheduler::names(), ", ")));
  command
      .add_option("--eta", eta,
                  "How random each step of DDIM or TCD is, from 0 to 1. Other schedulers do not take it. Default: 0.")
      ->check(CLI::Range(0.0, 1.0).description(""));
  command
      .add_option("--guidance-rescale", guidance_rescale,
                  "How much of the contrast that guidance adds is taken back, from 0 to 1 (SD, SDXL). Default: 0.")
      ->check(CLI::Range(0.0, 1.0).description(""));
  command.add_option("--clip-skip", clip_skip, "How many of the last layers of the text encoder to leave out");
  command.add_option(
      "--lora-dir", lora_dir,
      "The folder in which <lora:NAME:WEIGHT> looks for a file NAME.safetensors, at any depth. NAME may have "
      "the folder before it and the ending after it, and the file may be a .ckpt, .pt, .pth or .bin.");
  command
      .add_option("--vae-tiling", vae_tiling,
                  "Whether the VAE works on tiles of a large picture, which takes less memory and gives other pixels: "
                  "on, off, or auto for where the memory is missing.")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  command.add_flag("--low-memory", low_memory,
                   "Keeps the weights of a model in memory only while it works. The pictures are the same.");
  command.add_flag("--yes", yes, "Draws also what seems to need more memory than there is");
}

PipelineOptions DrawArguments::pipeline_options() const {
  auto options = model.pipeline_options();
  options.scheduler = scheduler;
  options.low_memory = low_memory;
  return options;
}

void DrawArguments::set_tiling(DiffusionPipeline& pipe) const {
  if (vae_tiling == "on") pipe.enable_vae_tiling();
  if (vae_tiling == "off") pipe.disable_vae_tiling();
}

CallOptions DrawArguments::call_options(int count) const {
  auto [width, height] = parse_size(size);
  CallOptions call{.height = height,
                   .width = width,
                   .num_inference_steps = steps,
                   .guidance_scale = cfg,
                   .num_images_per_prompt = count,
                   .eta = eta.value_or(0),
                   .guidance_rescale = guidance_rescale.value_or(0),
                   .clip_skip = clip_skip,
                   .prompt_syntax = prompts.prompt_syntax()};
  if (prompts.prompt_2) call.prompt_2 = *prompts.prompt_2;
  if (prompts.prompt_3) call.prompt_3 = *prompts.prompt_3;
  pictures.set(call);
  call.callback_on_note = [](const std::string& text) { note(text); };
  return call;
}

}  // namespace lora::cli
