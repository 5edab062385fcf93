#pragma once
// Which cells of `lora grid` are drawn in one call, and with which LoRAs.
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "grid_cells.h"
#include "lora/pipeline.h"

namespace lora::cli {

// The LoRAs of all cells, each loaded once.
class GridLoras {
 public:
  // Loads them. Notes what the loads and the weights of the cells leave out. Throws what load_loras() throws.
  GridLoras(DiffusionPipeline& pipe, const std::vector<GridCell>& cells, PartialLora partial);

  // Sets the adapters of a call that draws these cells.
  void set(const std::vector<const GridCell*>& cells, CallOptions& call) const;
  // The names of a cell's adapters, in the order of its LoRAs.
  std::vector<std::string> names(const GridCell& cell) const;

 private:
  DiffusionPipeline& pipe_;
  std::map<std::string, std::vector<size_t>> by_file_;  // several where one cell has a file several times
  std::vector<LoadReport> reports_;

  std::vector<LoadReport> reports_of(const GridCell& cell) const;
};

// The cells of each call, as indices. The cells of a call have the same steps, guidance, scheduler and number of
// chunks of the prompt (PromptSyntax::attention), so that each is drawn as it is drawn alone. `fits` says how many
// pictures a call like that of a cell can have. Load the LoRAs first: their words count.
std::vector<std::vector<size_t>> grid_batches(const DiffusionPipeline& pipe, const std::vector<GridCell>& cells,
                                              PromptSyntax syntax, const std::function<int(const GridCell&)>& fits);

}  // namespace lora::cli
