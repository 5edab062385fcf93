#include <fmt/ranges.h>

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "check.h"
#include "lora/image.h"
#include "lora/version.h"
#include "model_arguments.h"
#include "progress.h"
#include "refiner.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::string prompt, output = "out.png", size, scheduler, lora_dir;
  std::optional<std::string> prompt_2, prompt_3, negative;
  std::string image, mask, refiner;
  int count = 1;
  std::optional<int> steps, clip_skip;
  std::optional<double> cfg, strength;
  std::optional<double> refiner_start;
  std::optional<uint64_t> seed;
  bool fuse = false, json = false;
};

// "512x768" is width by height.
std::pair<int, int> parse_size(const std::string& text) {
  if (text.empty()) return {0, 0};
  int width = 0, height = 0;
  char end = 0;
  check(std::sscanf(text.c_str(), "%dx%d%c", &width, &height, &end) == 2 && width > 0 && height > 0, ErrorKind::usage,
        "--size {}: the form is WIDTHxHEIGHT, such as 512x768", text);
  return {width, height};
}

// out.png for one picture; out-1.png, out-2.png, … for several.
std::string file_name(const std::filesystem::path& output, int index, int count) {
  if (count == 1) return output.string();
  auto name = fmt::format("{}-{}{}", output.stem().string(), index + 1, output.extension().string());
  return (output.parent_path() / name).string();
}

// Before the work: a picture that cannot be written afterwards would be lost.
void check_writable(const std::filesystem::path& output) {
  auto folder = output.has_parent_path() ? output.parent_path() : std::filesystem::path(".");
  check(std::filesystem::is_directory(folder), ErrorKind::io, "--output: {}: no such folder", folder.string());
  check(output.extension() == ".png", ErrorKind::usage,
        "--output {}: pictures are written as PNG. Give a name that ends in .png.", output.string());
}

CallOptions call_options(const Arguments& a, uint64_t seed) {
  auto [width, height] = parse_size(a.size);
  CallOptions call{.height = height,
                   .width = width,
                   .strength = a.strength,
                   .num_inference_steps = a.steps,
                   .guidance_scale = a.cfg,
                   .num_images_per_prompt = a.count,
                   .clip_skip = a.clip_skip};
  if (a.prompt_2) call.prompt_2 = *a.prompt_2;
  if (a.prompt_3) call.prompt_3 = *a.prompt_3;
  if (a.negative) call.negative_prompt = *a.negative;
  if (!a.image.empty()) call.image = Image::load(a.image);
  if (!a.mask.empty()) call.mask_image = Image::load(a.mask);
  for (int i = 0; i < a.count; ++i) call.seed.push_back(seed + uint64_t(i));
  return call;
}

void run(const Arguments& a) {
  check(a.count >= 1, ErrorKind::usage, "--count {}: must be at least 1", a.count);
  check(!a.refiner_start || !a.refiner.empty(), ErrorKind::usage, "--refiner-start needs --refiner. Give one.");
  check_writable(a.output);
  auto [prompt, tagged] = take_lora_tags(a.prompt, a.lora_dir);
  auto loras = a.model.lora_arguments();
  loras.insert(loras.end(), tagged.begin(), tagged.end());
  auto seed = a.seed.value_or(std::random_device()());
  auto call = call_options(a, seed);

  auto options = a.model.pipeline_options();
  options.scheduler = a.scheduler;
  auto pipe = open_pipeline(a.model.model, options);
  a.model.threads.fit(*pipe);
  auto reports = load_loras(*pipe, loras, /*for_a_call=*/!a.fuse);
  for (const auto& report : reports)
    if (!report.unmatched.empty() || !report.notes.empty()) fmt::print(stderr, "{}", report.text());
  if (a.fuse && !loras.empty()) pipe->fuse_lora();
  set_call_adapters(loras, reports, a.count, call);
  std::optional<Refiner> refiner;
  if (!a.refiner.empty()) {
    options.prediction_type.clear();  // of MODEL alone
    refiner.emplace(*pipe, a.refiner, a.refiner_start.value_or(0.8), options);
    refiner->load_loras(loras, a.fuse);
  }

  Progress progress;
  int steps = 0;
  call.callback_on_step_end = [&](const StepEnd& step) {
    progress.show(step.step + 1, steps = step.num_steps);
    return true;
  };
  auto images = refiner ? refiner->draw(prompt, call) : (*pipe)(prompt, call);

  nlohmann::json files = nlohmann::json::array();
  for (int i = 0; i < a.count; ++i) {
    auto& image = images[size_t(i)];
    std::vector<std::string> adapters;
    for (const auto& lora : loras) adapters.push_back(lora.file + ":" + lora.text);
    image.text = {{"prompt", prompt},
                  {"negative_prompt", a.negative.value_or("")},
                  {"seed", std::to_string(seed + uint64_t(i))},
                  {"model", a.model.model},
                  {"adapters", fmt::format("{}", fmt::join(adapters, ", "))},
                  {"steps", std::to_string(a.steps.value_or(steps))},
                  {"scheduler", pipe->scheduler->class_name()},
                  {"software", std::string("lora.cpp ") + version()}};
    if (a.cfg) image.text["cfg"] = fmt::format("{:g}", *a.cfg);
    auto file = file_name(a.output, i, a.count);
    image.save(file);
    files.push_back({{"file", file}, {"seed", seed + uint64_t(i)}});
    if (!a.json) fmt::print("{}\n", file);
  }
  if (!a.json) return;
  nlohmann::json loaded = nlohmann::json::array();
  for (const auto& report : reports) loaded.push_back(nlohmann::json::parse(report.json()));
  std::cout << nlohmann::json{{"images", files},
                              {"adapters", loaded},
                              {"seconds", progress.seconds()},
                              {"pipeline", pipe->class_name()},
                              {"dtype", to_string(pipe->dtype())}}
                   .dump(2)
            << "\n";
}

}  // namespace

void declare_generate(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("generate", "Draws a picture of a prompt");
  a->model.declare(*command);
  a->model.declare_prediction_type(*command);
  command
      ->add_option("-p,--prompt", a->prompt,
                   "What to draw. <lora:NAME:WEIGHT> in the text loads a LoRA from --lora-dir.")
      ->required();
  command->add_option("--prompt-2", a->prompt_2,
                      "The text for the second text encoder (SDXL, SD 3). Default: --prompt.");
  command->add_option("--prompt-3", a->prompt_3, "The text for the third text encoder (SD 3). Default: --prompt.");
  command->add_option("-n,--negative", a->negative, "What not to draw");
  command
      ->add_option("-o,--output", a->output,
                   "The PNG file to write. Where --count is more than 1, numbers are added to its name.")
      ->capture_default_str();
  command->add_option("--steps", a->steps, "Denoising steps. Default: 50, SD 3 28, aMUSEd 12.");
  command->add_option("--cfg", a->cfg, "Guidance scale; 1 is no guidance. Default: SD 7.5, SDXL 5, SD 3 7, aMUSEd 10.");
  command->add_option("--seed", a->seed,
                      "The seed of the first picture. Each further picture takes the next number. Default: random.");
  command->add_option("--size", a->size, "WIDTHxHEIGHT in pixels. Default: the size of --image, else the model's own.");
  command->add_option("--count", a->count, "How many pictures to draw")->capture_default_str();
  command->add_option("--image", a->image, "A PNG file to start from");
  command->add_option("--strength", a->strength, "How much of the run the image goes through: more than 0, at most 1");
  command->add_option("--mask", a->mask, "A PNG file. Where it is white, the image is drawn again.");
  command->add_option("--refiner", a->refiner,
                      "An SDXL refiner that draws the end of the run. The LoRAs that fit it act on it too.");
  command->add_option(
      "--refiner-start", a->refiner_start,
      "The fraction of the run at which the refiner takes over: more than 0, less than 1. Default: 0.8.");
  command->add_option("--scheduler", a->scheduler,
                      fmt::format("{}. Default: the model's own.", fmt::join(Scheduler::names(), ", ")));
  command->add_option("--clip-skip", a->clip_skip, "How many of the last layers of the text encoder to leave out");
  command->add_option("--lora-dir", a->lora_dir,
                      "The folder in which <lora:NAME:WEIGHT> looks for NAME.safetensors, at any depth");
  command->add_flag("--fuse", a->fuse, "Fuses the LoRAs into the weights before drawing");
  command->add_flag("--json", a->json, "Prints JSON");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
