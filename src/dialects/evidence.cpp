#include "dialects/evidence.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "core/text.h"

namespace lora {

namespace {

using View = std::string_view;

// Narrower models are not published ones, so that their widths tell nothing.
constexpr int64_t kNarrowest = 1024;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Whether `name` begins with the pattern, and at its end with `$`.
bool begins_as(View name, View pattern) {
  while (!pattern.empty()) {
    if (pattern == "$") return name.empty();
    if (pattern.front() == '#' || pattern.front() == '*') {
      bool number = pattern.front() == '#';
      size_t n = 0;
      while (n < name.size() && (number ? is_digit(name[n]) : name[n] != '_')) ++n;
      if (n == 0) return false;
      name.remove_prefix(n);
    } else if (name.empty() || name.front() != pattern.front()) {
      return false;
    } else {
      name.remove_prefix(1);
    }
    pattern.remove_prefix(1);
  }
  return true;
}

bool matches(View name, View piece) {
  if (piece.starts_with('^')) return begins_as(name, piece.substr(1));
  auto literal = piece.substr(0, piece.find_first_of("#*$"));  // few places have it
  for (auto at = name.find(literal); at < name.size(); at = name.find(literal, at + 1))
    if (begins_as(name.substr(at), piece)) return true;
  return false;
}

// The list of blocks that a layer is in, and its block; "" for none.
std::pair<View, int64_t> block_of(View flat_name) {
  size_t at = flat_name.find('_');
  while (at != flat_name.npos && at + 1 < flat_name.size() && !is_digit(flat_name[at + 1]))
    at = flat_name.find('_', at + 1);
  if (at == flat_name.npos || at + 1 >= flat_name.size()) return {"", 0};
  int64_t block = 0;
  std::from_chars(flat_name.data() + at + 1, flat_name.data() + flat_name.size(), block);
  return {flat_name.substr(0, at), block};
}

bool is_any_models_list(View name) {
  static const auto all = [] {
    std::set<View> names;
    for (const auto& row : base_models())
      for (const auto& list : row.evidence.blocks) names.insert(list.name);
    return names;
  }();
  return all.contains(name);
}

bool beyond_blocks(const NamedTrace& layer, std::span<const BlockList> lists) {
  auto [list, block] = block_of(layer.flat);
  if (lists.empty() || !is_any_models_list(list)) return false;
  return std::none_of(lists.begin(), lists.end(),
                      [&, list = list, block = block](auto& l) { return l.name == list && block < l.count; });
}

// The model's width as this layer tells it; 0 where it does not, -1 for sizes that its model cannot have.
int64_t width_by(const NamedTrace& layer, std::span<const LayerSize> sizes) {
  for (const auto& size : sizes) {
    if (!matches(layer.flat, size.piece)) continue;
    int64_t width = 0;
    if (size.inputs != 0 && layer.columns >= kNarrowest && layer.columns != size.inputs) return -1;
    for (auto [found, units] : {std::pair(layer.columns, size.columns), std::pair(layer.rows, size.rows)}) {
      if (found < kNarrowest || units == 0) continue;
      if (found % units != 0 || (width != 0 && width != found / units)) return -1;
      width = found / units;
    }
    return width;
  }
  return 0;
}

bool is_one_of(int64_t width, std::span<const int64_t> widths) {
  return std::find(widths.begin(), widths.end(), width) != widths.end();
}

bool has_evidence(const Evidence& e) { return !e.marks.empty() || !e.names.empty() || !e.names_at_width.empty(); }

bool speaks_for(const NamedTrace& layer, const Evidence& evidence) {
  return has_any_piece(layer, evidence.names) ||
         (has_any_piece(layer, evidence.names_at_width) && is_one_of(width_by(layer, evidence.sizes), evidence.widths));
}

// Whether the file has one of two layers that are trained together, and not the other.
bool lacks_partners(const NamedTraces& layers, const Evidence& evidence) {
  return std::any_of(evidence.together.begin(), evidence.together.end(), [&](auto& pair) {
    auto any = [&](View piece) {
      return std::any_of(layers.begin(), layers.end(), [&](auto& layer) { return matches(layer.flat, piece); });
    };
    return any(pair.first) && !any(pair.second);
  });
}

// The one that a file which looks like several is taken for; unknown for none.
BaseModel taken_for(const std::vector<BaseModel>& models) {
  auto one = std::find_if(models.begin(), models.end(), [&](auto model) {
    return std::all_of(models.begin(), models.end(),
                       [&](auto other) { return other == model || can_be_taken_for(other, model); });
  });
  return one == models.end() ? BaseModel::unknown : *one;
}

}  // namespace

NamedTrace::NamedTrace(const LayerTrace& layer) : LayerTrace(layer), flat(replace_all(layer.path, ".", "_")) {}

bool has_any_piece(const NamedTrace& layer, std::span<const View> pieces) {
  return std::any_of(pieces.begin(), pieces.end(), [&](auto piece) {
    return piece.find('.') == piece.npos ? matches(layer.flat, piece) : layer.path.find(piece) != layer.path.npos;
  });
}

bool is_in_block_list(const std::string& path) {
  auto flat = replace_all(path, ".", "_");
  return is_any_models_list(block_of(flat).first);
}

bool can_be_taken_for(BaseModel model, BaseModel other) {
  auto* row = row_of(other);
  auto alike = row ? row->evidence.alike : std::span<const BaseModel>();
  return std::find(alike.begin(), alike.end(), model) != alike.end();
}

bool contradicts(const NamedTraces& layers, const BaseModelRow& row) {
  const auto& evidence = row.evidence;
  return std::any_of(layers.begin(), layers.end(), [&](auto& layer) {
    auto width = width_by(layer, evidence.sizes);
    return beyond_blocks(layer, evidence.blocks) || (width != 0 && !is_one_of(width, evidence.widths)) ||
           has_any_piece(layer, evidence.never);
  });
}

Candidates candidates_among(const NamedTraces& layers) {
  Candidates marked{.models = {}, .by_marks = true}, named;
  for (const auto& row : base_models()) {
    if (!has_evidence(row.evidence) || contradicts(layers, row)) continue;
    bool mark = false, name = false;
    for (const auto& layer : layers) {
      mark = mark || has_any_piece(layer, row.evidence.marks);
      name = name || speaks_for(layer, row.evidence);
    }
    if (mark) marked.models.push_back(row.model);
    if (name) named.models.push_back(row.model);
  }
  auto found = marked.models.empty() ? named : marked;
  if (found.models.size() > 1) {
    auto whole = found.models;
    std::erase_if(whole, [&](auto model) { return lacks_partners(layers, row_of(model)->evidence); });
    if (!whole.empty()) found.models = whole;
  }
  if (auto one = taken_for(found.models); one != BaseModel::unknown && found.models.size() > 1)
    std::stable_partition(found.models.begin(), found.models.end(), [&](auto model) { return model == one; });
  return found;
}

}  // namespace lora
