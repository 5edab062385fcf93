#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "check.h"
#include "drawings.h"
#include "fusing.h"
#include "lora/image.h"
#include "lora/text.h"
#include "lora/version.h"
#include "memory.h"
#include "output.h"
#include "output_path.h"
#include "progress.h"
#include "refiner.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  DrawArguments draw;
  FuseArguments fusing;
  std::string output = "out.png", refiner;
  int count = 1;
  std::optional<double> refiner_start;
  bool fuse = false, json = false;
};

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

// Writes the pictures of one prompt, with what they were drawn from. `first` is the number of the first of `total`.
void save(const Arguments& a, const Drawing& drawing, std::vector<Image> images, int first, int total,
          std::map<std::string, std::string> text) {
  text["prompt"] = drawing.line.prompt;
  text["negative_prompt"] = drawing.line.negative.value_or("");
  text["prompt_syntax"] = a.draw.prompts.syntax;
  if (!a.draw.model.vae.empty()) text["vae"] = a.draw.model.vae;
  if (drawing.call.guidance_scale) text["cfg"] = fmt::format("{:g}", *drawing.call.guidance_scale);
  for (int i = 0; i < a.count; ++i) {
    auto& image = images[size_t(i)];
    image.text = text;
    image.text["seed"] = std::to_string(drawing.seed + uint64_t(i));
    image.save(file_name(a.output, first + i, total));
  }
}

template <class T>
std::vector<T> chosen(const std::vector<T>& all, const std::vector<size_t>& indices) {
  std::vector<T> some;
  for (auto i : indices) some.push_back(all[i]);
  return some;
}

void run(const Arguments& a) {
  check(a.count >= 1, ErrorKind::usage, "--count {}: must be at least 1", a.count);
  check(!a.refiner_start || !a.refiner.empty(), ErrorKind::usage, "--refiner-start needs --refiner. Give one.");
  const auto max_loss = a.fusing.max_loss();
  check(!max_loss || a.fuse, ErrorKind::usage, "--keep-active-above is for --fuse. Without it, all layers are active.");
  const auto& model = a.draw.model;
  auto loras = model.lora_arguments();
  const auto all = drawings(a.draw, a.count, loras);
  check_has_loras(a.fuse, loras);
  const int total = a.count * int(all.size());
  check_writable(a.output, total);
  const bool same_loras = std::all_of(all.begin(), all.end(), [&](auto& d) { return d.loras.size() == loras.size(); });
  check(same_loras || (!a.fuse && a.refiner.empty()), ErrorKind::usage,
        "--prompts {}: its lines have different LoRAs as tags. With {}, give the LoRAs as --lora.", a.draw.prompts.file,
        a.fuse ? "--fuse" : "--refiner");

  auto options = a.draw.pipeline_options();
  auto pipe = open_pipeline(model.model, options);
  for (const auto& drawing : all)
    if (!a.draw.yes) drawing.named([&] { check_memory(*pipe, drawing.call); });
  model.threads.fit(*pipe);
  auto reports = load_loras(*pipe, loras, model.partial(), /*for_a_call=*/!a.fuse);
  if (a.fuse) fuse(*pipe, {.max_loss = max_loss});
  std::optional<Refiner> refiner;
  if (!a.refiner.empty()) {
    options.prediction_type.clear();  // of MODEL alone
    refiner.emplace(*pipe, a.refiner, a.refiner_start.value_or(0.8), options);
    refiner->load_loras(loras, model.partial(),
                        a.fuse ? std::optional(FuseLoraOptions{.max_loss = max_loss}) : std::nullopt);
  }

  const Progress whole;
  for (size_t n = 0; n < all.size(); ++n) {
    const auto& drawing = all[n];
    const auto own = chosen(loras, drawing.loras);
    auto call = drawing.call;
    for (int i = 0; i < a.count; ++i) call.seed.push_back(drawing.seed + uint64_t(i));
    set_call_adapters(*pipe, own, chosen(reports, drawing.loras), a.count, call, /*only_these=*/!same_loras);
    Progress progress;
    const int calls = pipe->scheduler->order();  // of the model, in each step
    int steps = 0;
    call.callback_on_step_end = [&](const StepEnd& step) {
      progress.show(step.step / calls + 1, steps = (step.num_steps + calls - 1) / calls);
      return true;
    };
    const auto& prompt = drawing.line.prompt;
    auto images = drawing.named([&] { return refiner ? refiner->draw(prompt, call) : (*pipe)(prompt, call); });
    std::vector<std::string> adapters;
    for (const auto& lora : own) adapters.push_back(lora.file + ":" + lora.text);
    save(a, drawing, std::move(images), int(n) * a.count, total,
         {{"model", model.model},
          {"adapters", fmt::format("{}", fmt::join(adapters, ", "))},
          {"steps", std::to_string(call.num_inference_steps.value_or(steps))},
          {"scheduler", pipe->scheduler->class_name()},
          {"software", std::string("lora.cpp ") + version()}});
  }
  // All pictures are written before the first line is printed: a reader that goes away loses none.
  if (!a.json) {
    for (int i = 0; i < total; ++i) print_path(file_name(a.output, i, total));
    return;
  }
  auto files = nlohmann::ordered_json::array(), loaded = files;
  for (int i = 0; i < total; ++i)
    files.push_back({{"file", valid_utf8(file_name(a.output, i, total).string())},
                     {"seed", all[size_t(i / a.count)].seed + uint64_t(i % a.count)}});
  for (const auto& report : reports) loaded.push_back(nlohmann::ordered_json::parse(report.json()));
  print_json({{"images", files},
              {"adapters", loaded},
              {"seconds", whole.seconds()},
              {"pipeline", pipe->class_name()},
              {"dtype", to_string(pipe->dtype())}});
}

}  // namespace

void declare_generate(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("generate", "Draws a picture of a prompt");
  a->draw.declare(*command);
  command
      ->add_option("-o,--output", a->output,
                   "The PNG file to write. Numbers are added to its name where there are several pictures.")
      ->capture_default_str();
  command->add_option("--count", a->count, "How many pictures to draw")->capture_default_str();
  command->add_option("--refiner", a->refiner,
                      "An SDXL refiner that draws the end of the run. The LoRAs that fit it act on it too.");
  command->add_option(
      "--refiner-start", a->refiner_start,
      "The fraction of the run at which the refiner takes over: more than 0, less than 1. Default: 0.8.");
  command->add_flag("--fuse", a->fuse, "Fuses the LoRAs into the weights before drawing");
  a->fusing.declare(*command);
  command->add_flag("--json", a->json, "Prints JSON");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
