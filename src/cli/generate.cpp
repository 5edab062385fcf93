#include <fmt/ranges.h>

#include <charconv>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "check.h"
#include "fusing.h"
#include "lora/image.h"
#include "lora/text.h"
#include "lora/version.h"
#include "memory.h"
#include "model_arguments.h"
#include "output.h"
#include "output_path.h"
#include "progress.h"
#include "prompt_tags.h"
#include "refiner.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  ModelArguments model;
  FuseArguments fusing;
  std::string prompt, output = "out.png", size, scheduler, lora_dir, seed;
  std::optional<std::string> prompt_2, prompt_3, negative;
  std::string image, mask, refiner;
  int count = 1;
  std::optional<int> steps, clip_skip;
  std::optional<double> cfg, strength;
  std::optional<double> refiner_start;
  bool fuse = false, json = false, yes = false;
};

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

// The seed of the first picture. -1 means a random one, as in other programs.
uint64_t parse_seed(const std::string& text, int count) {
  if (text.empty() || text == "-1") return std::random_device()();
  uint64_t seed = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  check(error == std::errc() && end == text.data() + text.size(), ErrorKind::usage,
        "--seed {}: must be a whole number from 0 to 18446744073709551615, or -1 for a random one", text);
  check(seed + uint64_t(count - 1) >= seed, ErrorKind::usage,
        "--seed {}: the seeds of {} pictures go over 18446744073709551615, the largest seed", text, count);
  return seed;
}

// out.png for one picture; out-1.png, out-2.png, … for several.
std::filesystem::path file_name(const std::filesystem::path& output, int index, int count) {
  if (count == 1) return output;
  auto name = output.stem().string() + "-" + std::to_string(index + 1) + output.extension().string();
  return output.parent_path() / name;
}

// Before the work: a picture that cannot be written afterwards would be lost.
void check_writable(const std::filesystem::path& output, int count) {
  check(output.extension() == ".png", ErrorKind::usage,
        "--output {}: pictures are written as PNG. Give a name that ends in .png.", output.string());
  check_can_write_file(file_name(output, 0, count));
}

// Texts that take no tags.
void check_tags(const Arguments& a) {
  if (a.negative) check_no_lora_tags("--negative", *a.negative);
  if (a.prompt_2) check_no_lora_tags("--prompt-2", *a.prompt_2);
  if (a.prompt_3) check_no_lora_tags("--prompt-3", *a.prompt_3);
}

CallOptions call_options(const Arguments& a) {
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
  call.callback_on_note = [](const std::string& text) { note(text); };
  return call;
}

void run(const Arguments& a) {
  check(a.count >= 1, ErrorKind::usage, "--count {}: must be at least 1", a.count);
  check(!a.refiner_start || !a.refiner.empty(), ErrorKind::usage, "--refiner-start needs --refiner. Give one.");
  const auto seed = parse_seed(a.seed, a.count);
  check_writable(a.output, a.count);
  check_tags(a);
  const auto max_loss = a.fusing.max_loss();
  check(!max_loss || a.fuse, ErrorKind::usage, "--keep-active-above is for --fuse. Without it, all layers are active.");
  auto [prompt, tagged] = take_lora_tags(a.prompt, a.lora_dir);
  auto loras = a.model.lora_arguments();
  loras.insert(loras.end(), tagged.begin(), tagged.end());
  check_has_loras(a.fuse, loras);
  auto call = call_options(a);

  auto options = a.model.pipeline_options();
  options.scheduler = a.scheduler;
  auto pipe = open_pipeline(a.model.model, options);
  if (!a.yes) check_memory(*pipe, call);
  for (int i = 0; i < a.count; ++i) call.seed.push_back(seed + uint64_t(i));
  a.model.threads.fit(*pipe);
  auto reports = load_loras(*pipe, loras, a.model.partial(), /*for_a_call=*/!a.fuse);
  if (a.fuse) fuse(*pipe, {.max_loss = max_loss});
  set_call_adapters(*pipe, loras, reports, a.count, call);
  std::optional<Refiner> refiner;
  if (!a.refiner.empty()) {
    options.prediction_type.clear();  // of MODEL alone
    refiner.emplace(*pipe, a.refiner, a.refiner_start.value_or(0.8), options);
    refiner->load_loras(loras, a.model.partial(),
                        a.fuse ? std::optional(FuseLoraOptions{.max_loss = max_loss}) : std::nullopt);
  }

  Progress progress;
  int steps = 0;
  call.callback_on_step_end = [&](const StepEnd& step) {
    progress.show(step.step + 1, steps = step.num_steps);
    return true;
  };
  auto images = refiner ? refiner->draw(prompt, call) : (*pipe)(prompt, call);

  std::vector<std::string> adapters;
  for (const auto& lora : loras) adapters.push_back(lora.file + ":" + lora.text);
  // All pictures are written before the first line is printed: a reader that goes away loses none.
  for (int i = 0; i < a.count; ++i) {
    auto& image = images[size_t(i)];
    image.text = {{"prompt", prompt},
                  {"negative_prompt", a.negative.value_or("")},
                  {"seed", std::to_string(seed + uint64_t(i))},
                  {"model", a.model.model},
                  {"adapters", fmt::format("{}", fmt::join(adapters, ", "))},
                  {"steps", std::to_string(a.steps.value_or(steps))},
                  {"scheduler", pipe->scheduler->class_name()},
                  {"software", std::string("lora.cpp ") + version()}};
    if (a.cfg) image.text["cfg"] = fmt::format("{:g}", *a.cfg);
    image.save(file_name(a.output, i, a.count));
  }
  if (!a.json) {
    for (int i = 0; i < a.count; ++i) print_path(file_name(a.output, i, a.count));
    return;
  }
  auto files = nlohmann::ordered_json::array(), loaded = files;
  for (int i = 0; i < a.count; ++i)
    files.push_back({{"file", valid_utf8(file_name(a.output, i, a.count).string())}, {"seed", seed + uint64_t(i)}});
  for (const auto& report : reports) loaded.push_back(nlohmann::ordered_json::parse(report.json()));
  print_json({{"images", files},
              {"adapters", loaded},
              {"seconds", progress.seconds()},
              {"pipeline", pipe->class_name()},
              {"dtype", to_string(pipe->dtype())}});
}

}  // namespace

void declare_generate(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("generate", "Draws a picture of a prompt");
  a->model.declare(*command);
  a->model.declare_prediction_type(*command);
  command
      ->add_option(
          "-p,--prompt", a->prompt,
          "What to draw. <lora:NAME:WEIGHT> in the text loads a LoRA from --lora-dir. With two weights, the first "
          "is for the text encoders and the second for the UNet.")
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
  command
      ->add_option(
          "--seed", a->seed,
          "The seed of the first picture: a whole number, or -1 for a random one. Each further picture takes the "
          "next number. Default: -1.")
      ->type_name("UINT");
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
  command->add_option(
      "--lora-dir", a->lora_dir,
      "The folder in which <lora:NAME:WEIGHT> looks for a file NAME.safetensors, at any depth. NAME may have "
      "the folder before it and the ending after it, and the file may be a .ckpt, .pt, .pth or .bin.");
  command->add_flag("--fuse", a->fuse, "Fuses the LoRAs into the weights before drawing");
  a->fusing.declare(*command);
  command->add_flag("--yes", a->yes, "Draws also what seems to need more memory than there is");
  command->add_flag("--json", a->json, "Prints JSON");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
