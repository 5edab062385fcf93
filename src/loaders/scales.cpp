#include "loaders/scales.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"

namespace lora {

namespace {

LoraScale from_json(const nlohmann::json& value) {
  if (value.is_number()) return value.get<double>();
  if (value.is_array()) {
    LoraScale::List list;
    for (const auto& item : value) list.push_back(from_json(item));
    return list;
  }
  check(value.is_object(), ErrorKind::usage, "the weight of a LoRA is {}; a number, a list or an object was expected",
        value.dump());
  LoraScale::Dict dict;
  for (const auto& [name, item] : value.items()) dict.emplace_back(name, from_json(item));
  return dict;
}

double finite(const LoraScale& scale, const std::string& where) {
  check(scale.number(), ErrorKind::usage, "the weight of {}: a number was expected", where);
  check(std::isfinite(float(*scale.number())), ErrorKind::usage, "the weight of {} is {}; it must be a finite number",
        where, *scale.number());
  return *scale.number();
}

std::optional<int64_t> to_number(std::string_view text) {
  int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

// "down_blocks.1.attentions.0.…" is block 1, layer 0 of "down"; the middle block is block 0 of "mid".
struct Place {
  std::string_view part;
  int64_t block = 0, layer = 0;
};

std::optional<Place> place(const std::string& path) {
  auto names = split(path, '.');
  Place found;
  size_t at = 1;
  if (names[0] == "down_blocks" || names[0] == "up_blocks") {
    found.part = names[0] == "down_blocks" ? "down" : "up";
    found.block = to_number(names.at(1)).value_or(0);
    at = 2;
  } else if (names[0] == "mid_block") {
    found.part = "mid";
  } else {
    return std::nullopt;
  }
  if (names.size() > at + 1 && (names[at] == "attentions" || names[at] == "resnets"))
    found.layer = to_number(names[at + 1]).value_or(0);
  return found;
}

// The layers of each block of a part, by its number.
std::map<int64_t, int64_t> layers_of(const Parts& parts, std::string_view part) {
  std::map<int64_t, int64_t> layers;
  for (const auto& site : parts.sites)
    if (auto p = place(site->path); p && p->part == part) layers[p->block] = std::max(layers[p->block], p->layer + 1);
  return layers;
}

using Fill = std::function<void(int64_t block, int64_t layer, double weight)>;

void fill_block(const LoraScale& scale, const std::string& where, int64_t block, int64_t layers, const Fill& fill) {
  if (auto* list = scale.list()) {
    check(list->size() == 1 || int64_t(list->size()) == layers, ErrorKind::usage,
          "the weight of {}: a list of {} numbers; the block has {} layers", where, list->size(), layers);
    for (int64_t i = 0; i < layers; ++i) fill(block, i, finite((*list)[list->size() == 1 ? 0 : i], where));
    return;
  }
  auto weight = finite(scale, where);
  for (int64_t i = 0; i < layers; ++i) fill(block, i, weight);
}

SiteWeights unet_weights(const LoraScale::Dict& dict, const std::string& whole, const Parts& parts) {
  SiteWeights weights{.by_site = std::vector<double>(parts.sites.size(), 1.0)};
  for (const auto& [part, scale] : dict) {
    check(part == "down" || part == "mid" || part == "up", ErrorKind::usage,
          "the weight of {}: it does not have a part \"{}\"; it has: down, mid, up", whole, part);
    auto blocks = layers_of(parts, part);
    std::map<std::pair<int64_t, int64_t>, double> by_place;
    Fill fill = [&](int64_t block, int64_t layer, double weight) { by_place[{block, layer}] = weight; };
    auto where = whole + "." + part;
    if (auto* by_block = scale.dict()) {
      std::vector<std::string> names;
      for (auto [block, layers] : blocks) names.push_back(fmt::format("block_{}", block));
      for (const auto& [name, value] : *by_block) {
        auto it = std::find(names.begin(), names.end(), name);
        check(it != names.end() && part != "mid", ErrorKind::usage, "the weight of {}: it does not have \"{}\"; {}",
              where, name, part == "mid" ? "it is one block and takes a number" : "it has: " + join(names, ", "));
        auto [block, layers] = *std::next(blocks.begin(), it - names.begin());
        fill_block(value, where + "." + name, block, layers, fill);
      }
    } else {
      for (auto [block, layers] : blocks) {
        // One number for the middle block, which is one layer of a pair of resnets.
        if (part == "mid" && scale.list())
          check(scale.list()->size() == 1, ErrorKind::usage, "the weight of {}: a list of {} numbers; it takes one",
                where, scale.list()->size());
        fill_block(scale, where, block, layers, fill);
      }
    }
    for (const auto& site : parts.sites)
      if (auto p = place(site->path); p && p->part == part)
        if (auto it = by_place.find({p->block, p->layer}); it != by_place.end())
          weights.by_site[site->index] = it->second;
  }
  return weights;
}

// The number in "…layers.3.…" or "encoder.block.3.…" (text encoders), "transformer_blocks.3.…" or
// "transformer_layers.3.…".
std::optional<int64_t> layer_number(const std::string& path) {
  for (std::string_view list : {"encoder.layers.", "encoder.block.", "transformer_blocks.", "transformer_layers."}) {
    auto at = path.find(list);
    if (at == path.npos) continue;
    auto rest = std::string_view(path).substr(at + list.size());
    return to_number(rest.substr(0, rest.find('.')));
  }
  return std::nullopt;
}

SiteWeights layer_weights(const LoraScale::Dict& dict, const std::string& where, const Parts& parts) {
  SiteWeights weights{.by_site = std::vector<double>(parts.sites.size(), 1.0)};
  int64_t count = 0;
  for (const auto& site : parts.sites) count = std::max(count, layer_number(site->path).value_or(-1) + 1);
  std::vector<std::string> named(count);
  for (const auto& [name, scale] : dict) {
    std::optional<int64_t> first, last;
    auto text = std::string_view(name);
    if (text.starts_with("layer_")) {
      first = last = to_number(text.substr(6));
    } else if (auto dash = text.find('-'); text.starts_with("layers_") && dash != text.npos) {
      first = to_number(text.substr(7, dash - 7));
      last = to_number(text.substr(dash + 1));
    }
    check(first && last && *first >= 0 && *first <= *last && *last < count, ErrorKind::usage,
          "the weight of {}: it does not have a layer \"{}\"; it has: layer_0 to layer_{}, and ranges such as "
          "layers_0-{}",
          where, name, count - 1, count - 1);
    for (auto n = *first; n <= *last; ++n) {
      check(named[n].empty(), ErrorKind::usage, "the weight of {}: {} and {} both name layer {}", where, named[n], name,
            n);
      named[n] = name;
    }
    auto weight = finite(scale, where + "." + name);
    for (const auto& site : parts.sites)
      if (auto n = layer_number(site->path); n && *n >= *first && *n <= *last) weights.by_site[site->index] = weight;
  }
  return weights;
}

}  // namespace

LoraScale LoraScale::parse(std::string_view text) {
  constexpr int kDeepest = 8;  // components, parts, blocks and layers are four
  std::map<int, std::set<std::string>> names;
  auto look = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    check(depth <= kDeepest, ErrorKind::usage, "the weight of a LoRA is nested more than {} levels deep", kDeepest);
    if (event == Event::object_start) names[depth + 1].clear();
    check(event != Event::key || names[depth].insert(value.get<std::string>()).second, ErrorKind::usage,
          "the weight of a LoRA names {} twice", value.dump());
    return true;
  };
  return edge([&] {
    auto value = nlohmann::json::parse(text, look, /*allow_exceptions=*/false);
    check(!value.is_discarded(), ErrorKind::usage, "`{}` is not the weight of a LoRA; a number or JSON was expected",
          text);
    return from_json(value);
  });
}

std::vector<LoraScale> AdapterWeights::of(size_t count, std::string_view where) const {
  return edge([&] {
    if (weights_.size() <= 1) return std::vector(count, weights_.empty() ? LoraScale() : weights_.front());
    check(weights_.size() == count, ErrorKind::usage, "{}: {} adapters, but {} weights", where, count, weights_.size());
    return weights_;
  });
}

LoraSchedule LoraSchedule::by_step(std::map<int, double> table) {
  return LoraSchedule([table = std::move(table)](int step, int) {
    auto after = table.upper_bound(step);
    return after == table.begin() ? 1.0 : std::prev(after)->second;
  });
}

LoraSchedule LoraSchedule::by_fraction(std::map<double, double> table) {
  return LoraSchedule([table = std::move(table)](int step, int steps) {
    auto after = table.upper_bound(double(step) / std::max(steps, 1));
    return after == table.begin() ? 1.0 : std::prev(after)->second;
  });
}

SiteWeights resolve(const LoraScale& scale, const std::string& component, const Parts& parts,
                    const std::string& adapter) {
  auto where = fmt::format("\"{}\" on {}", adapter, component);
  if (scale.number()) return {.number = finite(scale, where)};
  check(scale.dict(), ErrorKind::usage, "the weight of \"{}\": a number, or numbers by component, were expected",
        adapter);
  auto it = std::find_if(scale.dict()->begin(), scale.dict()->end(), [&](auto& row) { return row.first == component; });
  if (it == scale.dict()->end()) return {};
  const auto& own = it->second;
  if (own.number()) return {.number = finite(own, where)};
  check(own.dict(), ErrorKind::usage, "the weight of {}: a number, or numbers by block, were expected", where);
  bool is_unet = parts.by_path.contains("conv_in") && !layers_of(parts, "down").empty();
  return is_unet ? unet_weights(*own.dict(), where, parts) : layer_weights(*own.dict(), where, parts);
}

std::vector<std::string> unknown_components(const LoraScale& scale, const std::vector<std::string>& known) {
  std::vector<std::string> unknown;
  if (scale.dict())
    for (const auto& [name, value] : *scale.dict())
      if (std::find(known.begin(), known.end(), name) == known.end()) unknown.push_back(name);
  return unknown;
}

}  // namespace lora
