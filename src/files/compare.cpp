#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "adapters/finite.h"
#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "files/change.h"
#include "files/progress.h"
#include "io/public_call.h"

namespace lora {

namespace {

// ⟨a, b⟩, ⟨a, a⟩ and ⟨b, b⟩.
struct DotProducts {
  double ab = 0, aa = 0, bb = 0;

  double cosine() const {
    if (aa == 0 || bb == 0) return aa == bb ? 1 : 0;  // two that change nothing do the same
    return ab / std::sqrt(aa) / std::sqrt(bb);
  }
  double ratio() const { return aa == bb ? 1 : std::sqrt(bb / aa); }
  void operator+=(const DotProducts& other) {
    ab += other.ab;
    aa += other.aa;
    bb += other.bb;
  }
};

std::string shape_text(const Effect& change) { return c10::str(at::IntArrayRef(shape_of(change))); }

struct Compared {
  DotProducts products;
  std::string note;
  bool has_numbers = true;
};

Compared by_tensors(const LoraLayer& a, const LoraLayer& b) {
  Compared result{.products = {}, .note = "by its tensors: what it changes depends on the base model"};
  for (const auto& [suffix, tensor] : a.tensors) {
    auto other = b.tensors.find(suffix);
    if (other == b.tensors.end() || other->second.numel() != tensor.numel())
      return {{}, "its tensors are of different sizes, and what they change depends on the base model", false};
    auto x = tensor.to(at::kDouble).flatten(), y = other->second.to(at::kDouble).flatten();
    result.products += {at::dot(x, y).item<double>(), at::dot(x, x).item<double>(), at::dot(y, y).item<double>()};
  }
  auto rank = rank_of(a.tensors);
  auto x = strength_of(a, rank), y = strength_of(b, rank);
  if (x.alpha != y.alpha || x.scale != y.scale)
    result.note += fmt::format("; the strengths differ: alpha {:g} and {:g}", x.alpha, y.alpha);
  if (a.settings != b.settings) result.note += "; the settings of PEFT's config differ";
  return result;
}

Effect change_in(const LoraFile& file, const LoraLayer& layer) {
  return named(file.source, [&] { return change_of(layer); });
}

Compared compared(const LoraFile& first, const LoraLayer& a, const LoraFile& second, const LoraLayer& b) {
  for (auto* layer : {&a, &b})
    if (!all_finite(*layer)) return {{}, "NaN or infinity", false};
  if (depends_on_base(a.tensors) || depends_on_base(b.tensors)) {
    if (a.kind == b.kind) return by_tensors(a, b);
    return {{}, fmt::format("{} and {}, which depend on the base model", a.kind, b.kind), false};
  }
  auto x = change_in(first, a), y = change_in(second, b);
  if (is_nothing(x) || is_nothing(y)) return {{}, "half a pair of factors", false};
  if (shape_of(x) != shape_of(y))
    return {{}, fmt::format("of different sizes: {} and {}", shape_text(x), shape_text(y)), false};
  return {{dot(x, y), dot(x, x), dot(y, y)}, "", true};
}

// What was done with a file, and what is left of it.
void add_notes(const LoraFile& file, Comparison& result) {
  for (const auto& note : file.notes) result.notes.push_back(fmt::format("{}: {}", file.source, note));
  if (!file.unmatched.empty())
    result.notes.push_back(fmt::format("{}: {} not understood, the first: {}", file.source,
                                       counted(file.unmatched.size(), "key"), file.unmatched.front().key));
}

Comparison compare(const LoraFile& first, const LoraFile& second, const ToolProgress& progress) {
  Comparison result{.a = first.source, .b = second.source};
  add_notes(first, result);
  add_notes(second, result);
  std::map<std::string, const LoraLayer*> others;
  for (const auto& layer : second.layers) others[layer.name()] = &layer;
  DotProducts all;
  int done = 0;
  for (const auto& layer : first.layers) {
    auto name = layer.name();
    auto other = others.find(name);
    if (other == others.end()) {
      result.only_in_a.push_back(name);
    } else {
      auto [products, note, has_numbers] = compared(first, layer, second, *other->second);
      auto nothing = std::nan("");
      result.rows.push_back(
          {name, has_numbers ? products.cosine() : nothing, has_numbers ? products.ratio() : nothing, std::move(note)});
      if (has_numbers) all += products;
      others.erase(other);
    }
    if (progress) progress(++done, int(first.layers.size()));
  }
  for (const auto& layer : second.layers)
    if (others.contains(layer.name())) result.only_in_b.push_back(layer.name());
  result.cosine = all.cosine();
  result.ratio = all.ratio();
  return result;
}

}  // namespace

Comparison compare_loras(const LoraSource& a, const LoraSource& b, const CompareOptions& options) {
  return public_call([&] {
    return compare(read_lora(a, options.read_a), read_lora(b, options.read_b), as_callers(options.progress));
  });
}

}  // namespace lora
