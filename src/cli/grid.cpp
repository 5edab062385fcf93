#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "check.h"
#include "grid_batches.h"
#include "lora/picture_grid.h"
#include "lora/text.h"
#include "lora/text_file.h"
#include "lora/version.h"
#include "memory.h"
#include "output.h"
#include "output_path.h"
#include "progress.h"
#include "verbs.h"

namespace lora::cli {

namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

struct Arguments {
  DrawArguments draw;
  std::string x, y, output = "grid.png";
  std::optional<int> batch_size;
  bool json = false;
};

struct Axes {
  std::optional<GridAxis> x, y;

  std::vector<GridAxis> all() const {
    std::vector<GridAxis> axes;
    for (const auto* axis : {&x, &y})
      if (*axis) axes.push_back(**axis);
    return axes;
  }
};

// What was drawn, cell by cell.
struct Drawn {
  std::vector<Image> images;
  std::vector<int> steps;
  std::vector<std::string> schedulers;  // their classes
};

using Schedulers = std::map<std::string, std::shared_ptr<const Scheduler>>;

Axes axes_of(const Arguments& a) {
  check(!a.x.empty() || !a.y.empty(), ErrorKind::usage,
        "grid needs --x or --y, such as --x \"weight style.safetensors: 0, 0.5, 1\"");
  Axes axes;
  if (!a.x.empty()) axes.x.emplace("--x", a.x);
  if (!a.y.empty()) axes.y.emplace("--y", a.y);
  const auto all = axes.all();
  check_axes(all, a.draw);
  const bool prompts =
      std::any_of(all.begin(), all.end(), [](auto& axis) { return axis.kind() == GridAxis::Kind::prompt; });
  check(prompts || a.draw.prompts.prompt, ErrorKind::usage,
        "grid needs --prompt, or an axis such as --y \"prompt: red apple | rocket\"");
  return axes;
}

fs::path json_path(const fs::path& picture) { return fs::path(picture).replace_extension(".json"); }

// Throws Error{usage} for a table that is too large to be one picture. `width` and `height` are those of a cell.
void check_table(size_t columns, size_t rows, int width, int height) {
  constexpr size_t kMostCells = 10'000, kMostPixels = size_t{1} << 28;  // as many as Image::load() reads
  const auto cells = columns * rows;
  check(cells <= kMostCells, ErrorKind::usage, "the table has {} by {} cells, but at most {} are drawn", columns, rows,
        kMostCells);
  const auto pixels = double(cells) * width * height;
  check(
      pixels <= double(kMostPixels), ErrorKind::usage,
      "the table of {} by {} cells of {}x{} has {:.0f} million pixels, but at most {} million are drawn. Choose fewer "
      "cells or a smaller --size.",
      columns, rows, width, height, pixels / 1e6, kMostPixels / 1'000'000);
}

void check_writable(const fs::path& output) {
  check(output.string().find_first_of("{}") == std::string::npos, ErrorKind::usage,
        "--output {}: the name of a grid does not have parts in braces", output.string());
  check(output.extension() == ".png", ErrorKind::usage,
        "--output {}: the grid is written as PNG. Give a name that ends in .png.", output.string());
  check_can_write_file(output);
  check_can_write_file(json_path(output));
}

// The schedulers of the cells, by the names that the cells have.
Schedulers schedulers_of(const DiffusionPipeline& pipe, const Axes& axes, const std::string& of_all) {
  Schedulers all{{of_all, pipe.scheduler}};
  for (const auto& axis : axes.all())
    for (size_t i = 0; axis.kind() == GridAxis::Kind::scheduler && i < axis.values().size(); ++i)
      axis.named(i, [&] { all[axis.values()[i]] = pipe.scheduler_named(axis.values()[i]); });
  return all;
}

// Throws Error{usage} where a scheduler cannot make as many steps as a cell has.
void check_steps(const Schedulers& schedulers, const Axes& axes, const GridCells& grid) {
  std::set<std::pair<std::string, int>> checked;
  auto of_steps = [](const std::optional<GridAxis>& axis) { return axis && axis->kind() == GridAxis::Kind::steps; };
  for (size_t i = 0; i < grid.cells.size(); ++i) {
    const auto& cell = grid.cells[i];
    if (!cell.steps || !checked.insert({cell.scheduler, *cell.steps}).second) continue;
    auto check_cell = [&] {
      const auto trial = schedulers.at(cell.scheduler)->clone();
      trial->set_timesteps(*cell.steps, {.mu = trial->mu_for(1)});
    };
    if (of_steps(axes.x))
      axes.x->named(i % grid.columns, check_cell);
    else if (of_steps(axes.y))
      axes.y->named(i / grid.columns, check_cell);
    else
      check_cell();
  }
}

// The call of one cell, or of several that share it.
CallOptions call_of(const CallOptions& common, const std::vector<const GridCell*>& cells) {
  auto call = common;
  const auto& first = *cells.front();
  call.num_inference_steps = first.steps;
  call.guidance_scale = first.cfg;
  if (first.line.negative) call.negative_prompt = *first.line.negative;
  for (const auto* cell : cells) call.seed.push_back(cell->seed);
  return call;
}

Drawn draw(DiffusionPipeline& pipe, const GridLoras& loras, const Schedulers& schedulers, const CallOptions& common,
           const GridCells& grid, const std::vector<std::vector<size_t>>& batches) {
  const auto& cells = grid.cells;
  Drawn drawn{std::vector<Image>(cells.size()), std::vector<int>(cells.size()), std::vector<std::string>(cells.size())};
  for (const auto& batch : batches) {
    std::vector<const GridCell*> own;
    std::vector<std::string> prompts;
    for (auto i : batch) {
      own.push_back(&cells[i]);
      prompts.push_back(cells[i].line.prompt);
    }
    pipe.scheduler = schedulers.at(own.front()->scheduler);
    auto call = call_of(common, own);
    loras.set(own, call);
    int steps = 0;
    call.callback_on_step_end = step_progress(*pipe.scheduler, steps);
    auto images = pipe(prompts, call);
    check_table(grid.columns, grid.rows, images.front().width, images.front().height);
    for (size_t k = 0; k < batch.size(); ++k) {
      drawn.images[batch[k]] = std::move(images[k]);
      drawn.steps[batch[k]] = own.front()->steps.value_or(steps);
      drawn.schedulers[batch[k]] = pipe.scheduler->class_name();
    }
  }
  return drawn;
}

Json axis_json(const std::optional<GridAxis>& axis) {
  if (!axis) return nullptr;
  auto values = Json::array();
  for (const auto& value : axis->values()) values.push_back(valid_utf8(value));
  return {{"axis", valid_utf8(axis->name())}, {"values", values}};
}

Json loras_json(const GridCell& cell, const std::vector<std::string>& names) {
  auto all = Json::array();
  for (size_t i = 0; i < cell.loras.size(); ++i) {
    const auto& lora = cell.loras[i];
    const auto weight = Json::parse(lora.text, nullptr, /*allow_exceptions=*/false);  // a number, JSON, or a tag's text
    all.push_back({{"file", valid_utf8(lora.file)},
                   {"adapter", valid_utf8(names[i])},
                   {"weight", weight.is_discarded() ? Json(valid_utf8(lora.text)) : weight}});
  }
  return all;
}

Json cells_json(const GridCells& grid, const Drawn& drawn, const GridLoras& loras,
                const std::vector<GridPlace>& places) {
  auto all = Json::array();
  for (size_t i = 0; i < grid.cells.size(); ++i) {
    const auto& cell = grid.cells[i];
    Json json{{"row", i / grid.columns + 1},
              {"column", i % grid.columns + 1},
              {"x", places[i].x},
              {"y", places[i].y},
              {"width", places[i].width},
              {"height", places[i].height},
              {"prompt", valid_utf8(cell.line.prompt)},
              {"negative_prompt", valid_utf8(cell.line.negative.value_or(""))},
              {"seed", cell.seed},
              {"steps", drawn.steps[i]}};
    if (cell.cfg) json["cfg"] = *cell.cfg;
    json["scheduler"] = cell.scheduler.empty() ? drawn.schedulers[i] : valid_utf8(cell.scheduler);
    json["loras"] = loras_json(cell, loras.names(cell));
    all.push_back(std::move(json));
  }
  return all;
}

void run(const Arguments& a) {
  check(a.batch_size.value_or(1) >= 1, ErrorKind::usage, "--batch-size {}: must be at least 1",
        a.batch_size.value_or(1));
  const auto axes = axes_of(a);
  const auto common = a.draw.call_options(/*count=*/1);
  auto length = [](const std::optional<GridAxis>& axis) { return axis ? axis->values().size() : 1; };
  check_table(length(axes.x), length(axes.y), common.width, common.height);
  const auto grid = grid_cells(axes.x, axes.y, a.draw);
  const auto& cells = grid.cells;
  check_writable(a.output);

  const auto embeddings = a.draw.model.embedding_arguments();
  const auto pipe = open_pipeline(a.draw.model.model, a.draw.pipeline_options());
  a.draw.set_tiling(*pipe);
  const auto schedulers = schedulers_of(*pipe, axes, a.draw.scheduler);
  check_steps(schedulers, axes, grid);
  a.draw.model.threads.fit(*pipe);
  load_embeddings(*pipe, embeddings);
  const GridLoras loras(*pipe, cells, a.draw.model.partial());
  const Pipelines pipes{pipe.get()};
  const auto batches = grid_batches(*pipe, cells, common.prompt_syntax, [&](const GridCell& cell) {
    return a.batch_size ? *a.batch_size : pictures_that_fit(pipes, call_of(common, {&cell}), int(cells.size()));
  });
  MemoryReport memory;
  for (const auto& batch : batches) {
    auto call = call_of(common, {&cells[batch.front()]});
    call.num_images_per_prompt = int(batch.size());
    if (!a.draw.yes) check_memory(pipes, call);
    memory.add(pipes, call);
  }
  tell(fmt::format("lora: {}, {} by {}, in {} of the model", counted(cells.size(), "cell"),
                   counted(grid.columns, "column"), counted(grid.rows, "row"), counted(batches.size(), "call")));
  tell(memory.text());

  const Progress whole;
  auto drawn = draw(*pipe, loras, schedulers, common, grid, batches);
  auto picture = picture_grid(drawn.images, grid.column_labels, grid.row_labels);
  picture.image.text = {{"model", a.draw.model.model}, {"software", std::string("lora.cpp ") + version()}};
  for (const auto& axis : axes.all())
    picture.image.text[axis.option() == "--x" ? "x" : "y"] = axis.option() == "--x" ? a.x : a.y;
  Json report{{"file", valid_utf8(a.output)},
              {"model", valid_utf8(a.draw.model.model)},
              {"pipeline", pipe->class_name()},
              {"dtype", to_string(pipe->dtype())},
              {"width", picture.image.width},
              {"height", picture.image.height},
              {"x", axis_json(axes.x)},
              {"y", axis_json(axes.y)},
              {"cells", cells_json(grid, drawn, loras, picture.places)},
              {"memory", memory.json()},
              {"seconds", whole.seconds()}};
  picture.image.save(a.output);
  write_text_file(json_path(a.output), json_text(report));
  if (a.json)
    print_json(report);
  else
    print_path(a.output);
}

}  // namespace

void declare_grid(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("grid", "Draws a table of pictures, to compare LoRAs, weights and other options");
  a->draw.declare(*command);
  command->remove_option(command->get_option("--prompts"));  // an axis has the prompts
  command
      ->add_option("--x", a->x,
                   "What differs between the columns: \"NAME: VALUE, VALUE\". The names are prompt (values between |), "
                   "seed, steps, cfg, scheduler, lora (none is no LoRA) and weight FILE. Numbers may be ranges: 1-4, "
                   "0-1:0.25, 0-1 [5].")
      ->type_name("AXIS");
  command->add_option("--y", a->y, "What differs between the rows, as --x")->type_name("AXIS");
  command
      ->add_option("-o,--output", a->output,
                   "The PNG file to write. A file of the same name that ends in .json says what each cell is.")
      ->capture_default_str();
  command->add_option("--batch-size", a->batch_size,
                      "How many cells to draw at once. Default: as many as the memory has room for.");
  command->get_option("--seed")->description(
      "The seed of all cells: a whole number, or -1 for a random one. Default: -1.");
  command->add_flag("--json", a->json, "Prints JSON");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
