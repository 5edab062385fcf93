#include "grid_cells.h"

#include <map>

#include "prompt_tags.h"
#include "text_file.h"

namespace lora::cli {

namespace {

std::vector<std::string> labels_of(const std::optional<GridAxis>& axis) {
  std::vector<std::string> labels;
  for (size_t i = 0; axis && i < axis->values().size(); ++i) labels.push_back(axis->label(i));
  return axis ? labels : std::vector<std::string>{""};
}

// "--x weight ink.safetensors: 0.5", if the axis sets LoRAs.
void add_lora_place(const std::optional<GridAxis>& axis, size_t value, std::string& place) {
  if (!axis || (axis->kind() != GridAxis::Kind::lora && axis->kind() != GridAxis::Kind::weight)) return;
  place += fmt::format("{}{} {}: {}", place.empty() ? "" : ", ", axis->option(), axis->name(), axis->values()[value]);
}

// A prompt with its styles, and the LoRAs of its tags.
struct ReadPrompt {
  PromptLine line;
  std::vector<LoraArgument> loras;
};

ReadPrompt read_prompt(const DrawArguments& a) {
  ReadPrompt prompt{a.prompts.lines(/*count=*/1).front(), {}};
  auto tagged = take_lora_tags(prompt.line.prompt, a.lora_dir);
  prompt.line.prompt = std::move(tagged.prompt);
  prompt.loras = std::move(tagged.loras);
  return prompt;
}

}  // namespace

GridCells grid_cells(const std::optional<GridAxis>& x, const std::optional<GridAxis>& y, DrawArguments base) {
  GridCells grid{.column_labels = labels_of(x), .row_labels = labels_of(y)};
  grid.columns = grid.column_labels.size();
  grid.rows = grid.row_labels.size();
  const bool prompt_axis = (x && x->kind() == GridAxis::Kind::prompt) || (y && y->kind() == GridAxis::Kind::prompt);
  if (prompt_axis && base.prompts.negative == "-") base.prompts.negative = read_stdin("--negative");
  base.seed = std::to_string(parse_seed("--seed", base.seed, 1));  // of all cells

  std::map<std::optional<std::string>, ReadPrompt> prompts;
  for (size_t i = 0; i < grid.columns * grid.rows; ++i) {
    auto a = base;
    // A weight is that of the LoRA that the other axis sets.
    const bool y_first = y && y->kind() == GridAxis::Kind::lora;
    if (y_first) y->set(i / grid.columns, base, a);
    if (x) x->set(i % grid.columns, base, a);
    if (y && !y_first) y->set(i / grid.columns, base, a);
    auto known = prompts.find(a.prompts.prompt);
    if (known == prompts.end()) known = prompts.emplace(a.prompts.prompt, read_prompt(a)).first;
    GridCell cell{.line = known->second.line,
                  .seed = parse_seed("--seed", a.seed, 1),
                  .steps = a.steps,
                  .cfg = a.cfg,
                  .scheduler = a.scheduler,
                  .loras = a.model.lora_arguments()};
    cell.loras.insert(cell.loras.end(), known->second.loras.begin(), known->second.loras.end());
    add_lora_place(x, i % grid.columns, cell.lora_place);
    add_lora_place(y, i / grid.columns, cell.lora_place);
    grid.cells.push_back(std::move(cell));
  }
  return grid;
}

}  // namespace lora::cli
