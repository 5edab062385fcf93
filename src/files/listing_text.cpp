// A list of LoRAs as text for people and as JSON for programs.
#include <fmt/chrono.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "core/columns.h"
#include "core/text.h"
#include "core/utf8.h"
#include "files/listing.h"
#include "io/json_text.h"

namespace lora {

namespace {

constexpr std::array kTitles = {"name", "base", "kind", "rank", "trainer", "hash", "verdict", "trigger words"};
using Cells = std::array<std::string, kTitles.size()>;
using Widths = std::array<size_t, kTitles.size()>;
constexpr size_t kGap = 2;        // columns between two cells
constexpr size_t kNarrowest = 6;  // of a cell that is cut

std::string ranks_of(const ListedLora& lora) {
  if (lora.max_rank == 0) return "";
  return lora.min_rank == lora.max_rank ? fmt::format("{}", lora.max_rank)
                                        : fmt::format("{}–{}", lora.min_rank, lora.max_rank);
}

// The phrase, or else the most frequent tags.
std::string words_of(const ListedLora& lora) {
  constexpr size_t kMostCharacters = 100, kMostTags = 5;
  std::vector<std::string> tags;
  for (const auto& [tag, count] : lora.tags)
    if (tags.size() < kMostTags) tags.push_back(tag);
  auto words = lora.trigger_phrase.empty() ? join(tags, ", ") : lora.trigger_phrase;
  auto first = first_characters(words, kMostCharacters);
  return std::string(first) + (first.size() < words.size() ? " …" : "");
}

Cells cells_of(const ListedLora& lora) {
  constexpr size_t kShownDigits = 12;  // as A1111 shows them
  Cells cells{lora.name,    std::string(to_string(lora.base_model)), lora.kind,    ranks_of(lora),
              lora.trainer, lora.hash.substr(0, kShownDigits),       lora.verdict, words_of(lora)};
  for (auto& cell : cells) cell = cell.empty() ? "–" : printable(cell);
  return cells;
}

// Takes columns from the widest cells until the line fits.
void narrow(Widths& widths, size_t columns) {
  auto total = std::accumulate(widths.begin(), widths.end(), kGap * (widths.size() - 1));
  for (; total > columns; --total) {
    auto widest = std::max_element(widths.begin(), widths.end());
    if (*widest <= kNarrowest) return;
    --*widest;
  }
}

std::string line_of(const Cells& cells, const Widths& widths) {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    auto cell = cut_to_columns(cells[i], widths[i]);
    line += cell;
    if (i + 1 < cells.size()) line.append(widths[i] - columns_of(cell) + kGap, ' ');
  }
  return line + "\n";
}

}  // namespace

std::string LoraList::text(size_t columns) const {
  std::vector<Cells> rows(1);
  std::copy(kTitles.begin(), kTitles.end(), rows.front().begin());
  for (const auto& lora : loras) rows.push_back(cells_of(lora));
  Widths widths{};
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], columns_of(row[i]));
  if (columns > 0) narrow(widths, columns);
  std::string text;
  for (const auto& row : rows) text += line_of(row, widths);
  return text;
}

std::string LoraList::json() const {
  auto all = nlohmann::json::array();
  for (const auto& lora : loras) {
    auto row = row_json(lora);
    row["path"] = lora.file.string();
    row["name"] = lora.name;
    row["size"] = lora.size;
    row["modified"] =
        fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::to_time_t(lora.modified)));
    all.push_back(std::move(row));
  }
  return json_text(all);
}

}  // namespace lora
