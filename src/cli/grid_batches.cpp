#include "grid_batches.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "model_arguments.h"

namespace lora::cli {

namespace {

// What a LoRA does, for comparison.
std::vector<std::pair<std::string, std::string>> loras_of(const GridCell& cell) {
  std::vector<std::pair<std::string, std::string>> loras;
  for (const auto& lora : cell.loras) loras.emplace_back(lora.file, lora.text);
  return loras;
}

// The adapters of one cell as a call has them.
std::vector<CallAdapter> adapters_of(const DiffusionPipeline& pipe, const GridCell& cell,
                                     const std::vector<LoadReport>& reports) {
  CallOptions call;
  set_call_adapters(pipe, cell.loras, reports, /*images=*/1, call, /*only_these=*/true);
  return call.adapters ? *call.adapters : call.adapters_per_image.front();
}

// How many bytes of ASCII certainly fit into one chunk of each text encoder: a token has one byte at least.
size_t room_of_chunk(const DiffusionPipeline& pipe, PromptSyntax syntax) {
  size_t room = std::numeric_limits<size_t>::max();
  if (syntax == PromptSyntax::plain) return room;  // there are no chunks
  for (const auto& component : pipe.models()) {
    if (!component.model->added_words().empty()) return 0;  // a word can be many tokens
    const auto positions = nlohmann::json::parse(component.model->config()).value("max_position_embeddings", 0);
    if (positions > 2) room = std::min(room, size_t(positions) - 2);  // without begin and end
  }
  return room;
}

bool is_one_chunk(const std::string& prompt, size_t room) {
  const bool ascii =
      std::all_of(prompt.begin(), prompt.end(), [](char c) { return static_cast<unsigned char>(c) < 128; });
  return prompt.size() <= room && ascii && prompt.find("BREAK") == prompt.npos;
}

}  // namespace

GridLoras::GridLoras(DiffusionPipeline& pipe, const std::vector<GridCell>& cells, PartialLora partial) : pipe_(pipe) {
  std::vector<LoraArgument> loras;
  for (const auto& cell : cells) {
    std::map<std::string, size_t> seen;
    for (const auto& lora : cell.loras) {
      auto& loaded = by_file_[lora.file];
      if (++seen[lora.file] <= loaded.size()) continue;
      loaded.push_back(loras.size());
      loras.push_back(lora);
    }
  }
  reports_ = load_loras(pipe, loras, partial, /*for_a_call=*/true);
  std::vector<std::vector<std::pair<std::string, std::string>>> checked;
  for (const auto& cell : cells) {
    if (std::find(checked.begin(), checked.end(), loras_of(cell)) != checked.end()) continue;
    try {
      activate_loras(pipe, cell.loras, reports_of(cell));
    } catch (const Error& error) {
      if (cell.lora_place.empty()) throw;
      throw Error(error.kind(), fmt::format("{}: {}", cell.lora_place, error.what()));
    }
    checked.push_back(loras_of(cell));
  }
}

std::vector<LoadReport> GridLoras::reports_of(const GridCell& cell) const {
  std::map<std::string, size_t> seen;
  std::vector<LoadReport> reports;
  for (const auto& lora : cell.loras) reports.push_back(reports_[by_file_.at(lora.file)[seen[lora.file]++]]);
  return reports;
}

std::vector<std::string> GridLoras::names(const GridCell& cell) const {
  std::vector<std::string> names;
  for (const auto& report : reports_of(cell)) names.push_back(report.adapter_name);
  return names;
}

void GridLoras::set(const std::vector<const GridCell*>& cells, CallOptions& call) const {
  const auto first = loras_of(*cells.front());
  const bool same = std::all_of(cells.begin(), cells.end(), [&](auto* cell) { return loras_of(*cell) == first; });
  if (same) {
    call.adapters = adapters_of(pipe_, *cells.front(), reports_of(*cells.front()));
    return;
  }
  for (const auto* cell : cells) call.adapters_per_image.push_back(adapters_of(pipe_, *cell, reports_of(*cell)));
}

std::vector<std::vector<size_t>> grid_batches(const DiffusionPipeline& pipe, const std::vector<GridCell>& cells,
                                              PromptSyntax syntax, const std::function<int(const GridCell&)>& fits) {
  const auto room = room_of_chunk(pipe, syntax);
  auto share = [&](const GridCell& a, const GridCell& b) {
    const auto &one = a.line.prompt, &other = b.line.prompt;
    return std::tie(a.steps, a.cfg, a.scheduler) == std::tie(b.steps, b.cfg, b.scheduler) &&
           (one == other || (is_one_chunk(one, room) && is_one_chunk(other, room)));
  };
  std::vector<std::vector<size_t>> batches;
  std::vector<size_t> most;  // of each batch
  for (size_t i = 0; i < cells.size(); ++i) {
    size_t n = 0;
    while (n < batches.size() && (batches[n].size() == most[n] || !share(cells[batches[n].front()], cells[i]))) ++n;
    if (n == batches.size()) {
      batches.emplace_back();
      most.push_back(size_t(fits(cells[i])));
    }
    batches[n].push_back(i);
  }
  return batches;
}

}  // namespace lora::cli
