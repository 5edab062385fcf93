#include "files/compare.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/check.h"
#include "core/text.h"
#include "files/layers.h"

namespace lora {

namespace {

// ⟨a, b⟩, ⟨a, a⟩ and ⟨b, b⟩.
struct Products {
  double ab = 0, aa = 0, bb = 0;

  double cosine() const {
    if (aa == 0 || bb == 0) return aa == bb ? 1 : 0;  // two that change nothing do the same
    return ab / std::sqrt(aa) / std::sqrt(bb);
  }
  double ratio() const { return aa == bb ? 1 : std::sqrt(bb / aa); }
  void operator+=(const Products& other) {
    ab += other.ab;
    aa += other.aa;
    bb += other.bb;
  }
};

std::vector<int64_t> size_of(const LayerChange& change) {
  if (!change.A.defined()) return change.weight.sizes().vec();
  return {change.B.size(0), change.A.size(1)};
}

std::string shape_of(const LayerChange& change) { return c10::str(at::IntArrayRef(size_of(change))); }

struct Compared {
  Products products;
  std::string note;
  bool has_numbers = true;
};

Compared by_tensors(const NamedModule& a, const NamedModule& b) {
  Compared result{.products = {}, .note = "by its tensors: what it changes depends on the base model"};
  for (const auto& [suffix, tensor] : a.tensors) {
    auto other = b.tensors.find(suffix);
    if (other == b.tensors.end() || other->second.numel() != tensor.numel())
      return {{}, "its tensors are of different sizes, and what they change depends on the base model", false};
    auto x = tensor.to(at::kDouble).flatten(), y = other->second.to(at::kDouble).flatten();
    result.products += {at::dot(x, y).item<double>(), at::dot(x, x).item<double>(), at::dot(y, y).item<double>()};
  }
  return result;
}

Compared compared(const NamedModule& a, const NamedModule& b) {
  auto kind_a = kind_of(a), kind_b = kind_of(b);
  if (depends_on_base(kind_a) || depends_on_base(kind_b)) {
    if (kind_a == kind_b) return by_tensors(a, b);
    return {{}, fmt::format("{} and {}, which depend on the base model", kind_a, kind_b), false};
  }
  auto x = change_of(a), y = change_of(b);
  if (x.empty() || y.empty()) return {{}, "half a pair of factors", false};
  if (size_of(x) != size_of(y))
    return {{}, fmt::format("of different sizes: {} and {}", shape_of(x), shape_of(y)), false};
  return {{x.dot(y), x.dot(x), y.dot(y)}, "", true};
}

std::string label(const NamedModule& layer) { return layer.component + "." + layer.path; }

nlohmann::json finite(double x) { return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(nullptr); }

}  // namespace

Comparison compare_loras(const std::filesystem::path& a, const std::filesystem::path& b, const ToolProgress& progress) {
  auto first = read_layers(a), second = read_layers(b);
  Comparison result{.a = first.file.source, .b = second.file.source};
  std::map<std::string, const NamedModule*> others;
  for (const auto& layer : second.layers) others[label(layer)] = &layer;
  Products all;
  int done = 0;
  for (const auto& layer : first.layers) {
    auto name = label(layer);
    auto other = others.find(name);
    if (other == others.end()) {
      result.only_in_a.push_back(name);
    } else {
      auto [products, note, has_numbers] = compared(layer, *other->second);
      auto nothing = std::nan("");
      result.rows.push_back(
          {name, has_numbers ? products.cosine() : nothing, has_numbers ? products.ratio() : nothing, std::move(note)});
      if (has_numbers) all += products;
      others.erase(other);
    }
    if (progress) progress(++done, int(first.layers.size()));
  }
  for (const auto& layer : second.layers)
    if (others.contains(label(layer))) result.only_in_b.push_back(label(layer));
  result.cosine = all.cosine();
  result.ratio = all.ratio();
  return result;
}

std::string Comparison::summary() const {
  if (rows.empty())
    return fmt::format("no layer in common: {} in the first alone, {} in the second alone", only_in_a.size(),
                       only_in_b.size());
  std::vector<double> cosines;
  for (const auto& row : rows)
    if (!std::isnan(row.cosine)) cosines.push_back(row.cosine);
  if (cosines.empty()) return fmt::format("{} layers in common, none of which can be compared", rows.size());
  auto [low, high] = std::minmax_element(cosines.begin(), cosines.end());
  return fmt::format(
      "{} layers in common: cosine {:.6f} together ({:.6f} to {:.6f} by layer), norm ratio {:.6f}; {} in the first "
      "alone, {} in the second alone",
      rows.size(), cosine, *low, *high, ratio, only_in_a.size(), only_in_b.size());
}

std::string Comparison::text() const {
  auto text = fmt::format("{}\n  first:  {}\n  second: {}\n", summary(), a, b);
  if (!rows.empty()) text += "    cosine     ratio\n";
  for (const auto& [layer, c, r, note] : rows)
    text += std::isnan(c)
                ? fmt::format("         –         –  {} ({})\n", layer, note)
                : fmt::format("  {:8.6f}  {:8.5g}  {}{}\n", c, r, layer, note.empty() ? "" : " (" + note + ")");
  for (const auto& layer : only_in_a) text += fmt::format("  only in the first:  {}\n", layer);
  for (const auto& layer : only_in_b) text += fmt::format("  only in the second: {}\n", layer);
  return text;
}

std::string Comparison::json() const {
  nlohmann::json all{{"a", a},
                     {"b", b},
                     {"summary", summary()},
                     {"cosine", finite(cosine)},
                     {"ratio", finite(ratio)},
                     {"only_in_a", only_in_a},
                     {"only_in_b", only_in_b},
                     {"layers", nlohmann::json::array()}};
  for (const auto& [layer, c, r, note] : rows)
    all["layers"].push_back({{"layer", layer}, {"cosine", finite(c)}, {"ratio", finite(r)}, {"note", note}});
  return all.dump(2);
}

}  // namespace lora
