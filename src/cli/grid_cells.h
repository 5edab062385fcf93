#pragma once
// The cells of `lora grid`: what each of them is drawn of.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "grid_axes.h"

namespace lora::cli {

// One picture: the options of `generate` for it alone.
struct GridCell {
  PromptLine line;  // without tags
  uint64_t seed = 0;
  std::optional<int> steps;
  std::optional<double> cfg;
  std::string scheduler;            // empty: the model's own
  std::vector<LoraArgument> loras;  // with those of the prompt's tags
  std::string lora_place;           // which values of the axes the LoRAs are from, for messages; may be empty
};

struct GridCells {
  size_t columns, rows;
  std::vector<std::string> column_labels, row_labels;
  std::vector<GridCell> cells;  // row by row
};

// The cells of the columns of `x` and the rows of `y`; without one of them, there is one column or one row. Throws what
// PromptArguments::lines(), take_lora_tags() and parse_lora_argument() throw.
GridCells grid_cells(const std::optional<GridAxis>& x, const std::optional<GridAxis>& y, DrawArguments base);

}  // namespace lora::cli
