#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "check.h"
#include "drawings.h"
#include "from_picture.h"
#include "fusing.h"
#include "lora/image.h"
#include "lora/text.h"
#include "memory.h"
#include "output.h"
#include "picture_names.h"
#include "picture_text.h"
#include "progress.h"
#include "refiner.h"
#include "verbose.h"
#include "verbs.h"

namespace lora::cli {

namespace {

constexpr int kMostPictures = 100'000;  // of a prompt

struct Arguments {
  DrawArguments draw;
  FuseArguments fusing;
  std::string output = "out.png", refiner;
  int count = 1;
  std::optional<int> batch_size;
  std::optional<double> refiner_start;
  bool fuse = false, json = false;
  FromPicture from;
  const CLI::App* command = nullptr;
};

template <class T>
std::vector<T> chosen(const std::vector<T>& all, const std::vector<size_t>& indices) {
  std::vector<T> some;
  for (auto i : indices) some.push_back(all[i]);
  return some;
}

// "seed 5", or "seeds 5 to 8" of several pictures. One that the user gave is no news.
void tell_seed(const Arguments& a, const Drawing& drawing) {
  auto text = a.count == 1 ? fmt::format("seed {}", drawing.seed)
                           : fmt::format("seeds {} to {}", drawing.seed, drawing.seed + uint64_t(a.count - 1));
  const bool chosen_here = a.draw.seed == "-1" && !drawing.line.seed;
  chosen_here ? tell(text) : tell_verbose(text);
}

// What the name of picture `i` can have.
NamedPicture named_picture(const std::vector<Drawing>& all, int count, const std::vector<LoraArgument>& loras,
                           size_t i) {
  const auto& drawing = all[i / size_t(count)];
  const int image = int(i % size_t(count)) + 1;
  NamedPicture picture{.seed = drawing.seed + uint64_t(image - 1)};
  for (auto lora : drawing.loras)
    if (loras[lora].acts_on(image)) picture.loras.push_back(LoraPlace(loras[lora].file).adapter_name());
  return picture;
}

// How many pictures of a drawing are drawn at once.
int batch_size(const Arguments& a, const Drawing& drawing, const Pipelines& pipes) {
  auto call = drawing.call;
  call.num_images_per_prompt =
      a.batch_size ? std::min(*a.batch_size, a.count) : pictures_that_fit(pipes, call, a.count);
  if (!a.draw.yes) drawing.named([&] { check_memory(pipes, call); });
  return call.num_images_per_prompt;
}

void run(const Arguments& a) {
  check(!a.draw.model.model.empty(), ErrorKind::usage, "MODEL is required. Give one.");
  check(a.count >= 1 && a.count <= kMostPictures, ErrorKind::usage, "--count {}: must be 1 to {}", a.count,
        kMostPictures);
  check(a.batch_size.value_or(1) >= 1, ErrorKind::usage, "--batch-size {}: must be at least 1",
        a.batch_size.value_or(1));
  check(!a.refiner_start || !a.refiner.empty(), ErrorKind::usage, "--refiner-start needs --refiner. Give one.");
  const auto max_loss = a.fusing.max_loss();
  check(!max_loss || a.fuse, ErrorKind::usage, "--keep-active-above is for --fuse. Without it, all layers are active.");
  const auto& model = a.draw.model;
  auto loras = model.lora_arguments();
  const auto embeddings = model.embedding_arguments();
  const auto all = drawings(a.draw, a.count, loras);
  check_has_loras(a.fuse, loras);
  const int total = a.count * int(all.size());
  PictureNames names(a.output, size_t(total), [&](size_t i) { return named_picture(all, a.count, loras, i); });
  check(!names.is_stdout() || !a.json, ErrorKind::usage,
        "--output - and --json both write to stdout. Give one of them.");
  const bool same_loras = std::all_of(all.begin(), all.end(), [&](auto& d) { return d.loras.size() == loras.size(); });
  check(same_loras || (!a.fuse && a.refiner.empty()), ErrorKind::usage,
        "--prompts {}: its lines have different LoRAs as tags. With {}, give the LoRAs as --lora.", a.draw.prompts.file,
        a.fuse ? "--fuse" : "--refiner");

  auto options = a.draw.pipeline_options();
  auto pipe = open_pipeline(model.model, options);
  a.draw.set_tiling(*pipe);
  Pipelines pipes{pipe.get()};
  std::optional<Refiner> refiner;
  if (!a.refiner.empty()) {
    options.prediction_type.clear();  // of MODEL alone
    options.hub.revision.clear();
    options.text_encoders.clear();
    refiner.emplace(*pipe, a.refiner, a.refiner_start.value_or(0.8), options);
    a.draw.set_tiling(refiner->pipeline());
    pipes.push_back(&refiner->pipeline());
  }
  MemoryReport memory;
  std::vector<int> batch_sizes;
  for (const auto& drawing : all) {
    auto call = drawing.call;
    batch_sizes.push_back(call.num_images_per_prompt = batch_size(a, drawing, pipes));
    memory.add(pipes, call);
  }
  tell(memory.text());
  model.threads.fit(*pipe);
  const auto words = load_embeddings(*pipe, embeddings);
  auto reports = load_loras(*pipe, loras, model.partial(), /*for_a_call=*/!a.fuse);
  std::vector<LoraOfPicture> told_loras;
  for (size_t i = 0; i < loras.size(); ++i) told_loras.emplace_back(loras[i], reports[i]);
  if (a.fuse) fuse(*pipe, {.max_loss = max_loss});
  if (refiner) {
    refiner->load_embeddings(embeddings);
    refiner->load_loras(loras, model.partial(),
                        a.fuse ? std::optional(FuseLoraOptions{.max_loss = max_loss}) : std::nullopt);
  }

  const Progress whole;
  std::vector<std::filesystem::path> written;
  for (size_t n = 0; n < all.size(); ++n) {
    const auto& drawing = all[n];
    const auto own = chosen(loras, drawing.loras);
    auto call = drawing.call;
    for (int i = 0; i < a.count; ++i) call.seed.push_back(drawing.seed + uint64_t(i));
    set_call_adapters(*pipe, own, chosen(reports, drawing.loras), a.count, call, /*only_these=*/!same_loras);
    tell_verbose(fmt::format("drawing {} of {}: {}", n + 1, all.size(), counted(size_t(a.count), "picture")));
    tell_seed(a, drawing);
    int steps = 0;
    call.callback_on_step_end = step_progress(*pipe->scheduler, steps);
    const auto& prompt = drawing.line.prompt;
    PictureRange range{0, 0};
    std::vector<Image> images;
    for (int i = 0; i < a.count; ++i) {
      if (i == range.first + range.count) {
        range = {i, std::min(batch_sizes[n], a.count - i)};
        images = drawing.named(
            [&] { return refiner ? refiner->draw(prompt, call, range) : (*pipe)(prompt, of_range(call, range)); });
        tell_verbose(counted(size_t(steps), "step") + " done");
      }
      auto& image = images[size_t(i - range.first)];
      DrawnPicture picture{.command = *a.command, .pipe = *pipe, .drawing = drawing, .steps = steps};
      for (auto lora : drawing.loras)
        if (loras[lora].acts_on(i + 1)) picture.loras.push_back(&told_loras[lora]);
      picture.seed = drawing.seed + uint64_t(i);
      picture.width = image.width, picture.height = image.height;
      image.text = texts_of(picture);
      written.push_back(names.save(n * size_t(a.count) + size_t(i), image));
      tell_verbose(names.is_stdout() ? "picture written" : written.back().string() + " saved");
    }
  }
  // All pictures are written before the first line is printed: a reader that goes away loses none.
  if (names.is_stdout()) return;
  if (!a.json) {
    for (const auto& file : written) print_path(file);
    return;
  }
  auto files = nlohmann::ordered_json::array(), loaded = files, loaded_words = files;
  for (int i = 0; i < total; ++i)
    files.push_back({{"file", valid_utf8(written[size_t(i)].string())},
                     {"seed", all[size_t(i / a.count)].seed + uint64_t(i % a.count)}});
  for (const auto& report : reports) loaded.push_back(nlohmann::ordered_json::parse(report.json()));
  for (const auto& report : words) loaded_words.push_back(nlohmann::ordered_json::parse(report.json()));
  print_json({{"images", files},
              {"adapters", loaded},
              {"embeddings", loaded_words},
              {"memory", memory.json()},
              {"seconds", whole.seconds()},
              {"pipeline", pipe->class_name()},
              {"dtype", to_string(pipe->dtype())}});
}

}  // namespace

void declare_generate(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("generate", "Draws a picture of a prompt");
  a->draw.declare(*command);
  a->from.declare(*command);
  command->add_option("-o,--output", a->output, kOutputHelp)->capture_default_str();
  command->add_option("--count", a->count, "How many pictures to draw")->capture_default_str();
  command
      ->add_option("--batch-size", a->batch_size,
                   "How many of them to draw at once. Default: as many as the memory has room for.")
      ->type_name("INT");
  command->add_option("--refiner", a->refiner,
                      "An SDXL refiner that draws the end of the run. The LoRAs that fit it act on it too.");
  command->add_option(
      "--refiner-start", a->refiner_start,
      "The fraction of the run at which the refiner takes over: more than 0, less than 1. Default: 0.8.");
  command->add_flag("--fuse", a->fuse, "Fuses the LoRAs into the weights before drawing");
  a->fusing.declare(*command);
  command->add_flag("--json", a->json, "Prints JSON");
  a->command = command;
  command->callback([a] {
    a->from.find_loras(a->draw);
    run(*a);
  });
}

}  // namespace lora::cli
