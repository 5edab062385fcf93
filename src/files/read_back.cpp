#include "files/read_back.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/text.h"
#include "files/change.h"
#include "kinds/builtin.h"
#include "kinds/kinds.h"
#include "kinds/lora.h"

namespace lora {

namespace {

// What float32 costs where the same change stands in other factors.
constexpr double kRounding = 2e-3;

bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  auto x = a.contiguous(), y = b.contiguous();
  return x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

bool same_bits(const LayerTensors& a, const LayerTensors& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](auto& x, auto& y) { return x.first == y.first && same_bits(x.second, y.second); });
}

bool near(double a, double b, double tolerance) {
  return a == b || std::abs(a - b) <= tolerance * std::abs(b) || (std::isnan(a) && std::isnan(b));
}

// The largest number to 1, so that products of small or large numbers stay in float32's range; what it was divided by.
double normalise(Tensor& t) {
  auto most = t.numel() > 0 ? t.abs().max().item<double>() : 0.0;
  if (!(most > 0) || !std::isfinite(most)) return 1;
  t = (t.to(at::kDouble) / most).to(at::kFloat);
  return most;
}

// A change as `size` times numbers of at most 1.
struct Normalised {
  Effect change;
  double size = 1;
};

Normalised normalised(Effect change) {
  Normalised result{std::move(change)};
  auto& [A, B, scale, gain, input_gain, weight, bias] = result.change;
  result.size = A.defined() ? std::exchange(scale, 1.0) * normalise(A) * normalise(B) : normalise(weight);
  return result;
}

// ‖a − b‖ / ‖b‖; 0 for two that change nothing.
double distance(const Normalised& a, const Normalised& b) {
  auto aa = dot(a.change, a.change), bb = dot(b.change, b.change);
  bool nothing_a = aa == 0 || a.size == 0, nothing_b = bb == 0 || b.size == 0;
  if (nothing_a || nothing_b) return nothing_a && nothing_b ? 0 : INFINITY;
  auto ratio = a.size / b.size;
  return std::sqrt(std::max(0.0, ratio * ratio * aa / bb - 2 * ratio * dot(a.change, b.change) / bb + 1));
}

double distance(const Tensor& a, const Tensor& b) {
  auto x = a.flatten().to(at::kDouble), y = b.flatten().to(at::kDouble);
  auto size = y.norm().item<double>(), difference = (x - y).norm().item<double>();
  return difference == 0 ? 0 : size == 0 ? INFINITY : difference / size;
}

Tensor magnitude_of(const LoraLayer& layer) {
  for (auto* family : {&peft_magnitude(), &dora_scale()})
    for (const auto& name : family->names())
      if (auto tensor = get(layer.tensors, name.ours); tensor.defined()) return tensor;
  return {};
}

// "" for the same.
std::string difference(const Tensor& got, const Tensor& wanted, const std::string& what, double tolerance) {
  if (got.defined() != wanted.defined()) return fmt::format("its {} {}", what, got.defined() ? "is new" : "is missing");
  if (!got.defined()) return "";
  if (got.numel() != wanted.numel()) return fmt::format("its {} has another size", what);
  auto apart = distance(got, wanted);
  return apart <= tolerance ? "" : fmt::format("its {} differs by {:.3g}", what, apart);
}

// All that a kind has, where its change cannot be made without the base weights.
std::string difference_of_tensors(const LoraLayer& got, const LoraLayer& wanted, double tolerance) {
  for (const auto& [suffix, tensor] : wanted.tensors)
    if (auto why = difference(get(got.tensors, suffix), tensor, suffix, tolerance); !why.empty()) return why;
  auto rank = rank_of(wanted.tensors);
  auto a = strength_of(got, rank), b = strength_of(wanted, rank);
  if (!near(a.scale, b.scale, 1e-6) || !near(a.alpha, b.alpha, 1e-6)) return "its strength differs";
  return got.settings == wanted.settings ? "" : "its settings differ";
}

// Those without another form than the file's.
std::string difference_of_other_additions(const LoraLayer& got, const LoraLayer& wanted, double tolerance) {
  for (const auto* addition : additions()) {
    if (addition == &peft_magnitude() || addition == &dora_scale() || addition == &bias_difference()) continue;
    for (const auto& name : addition->names())
      if (auto why = difference(get(got.tensors, name.ours), get(wanted.tensors, name.ours), std::string(name.ours),
                                tolerance);
          !why.empty())
        return why;
  }
  return "";
}

std::string difference(const LoraLayer& got, const LoraLayer& wanted, double tolerance) {
  auto* kind = kind_of(wanted.tensors);
  auto rank = rank_of(wanted.tensors);
  bool same = same_bits(got.tensors, wanted.tensors) && got.settings == wanted.settings;
  if (same && near(strength_of(got, rank).scale, strength_of(wanted, rank).scale, 1e-6) &&
      near(strength_of(got, rank).alpha, strength_of(wanted, rank).alpha, 1e-6))
    return "";
  if (!kind || kind->depends_on_base()) return difference_of_tensors(got, wanted, tolerance);
  if (auto why = difference(magnitude_of(got), magnitude_of(wanted), "magnitude", tolerance); !why.empty()) return why;
  if (auto why = difference(bias_change_of(got), bias_change_of(wanted), "bias", tolerance); !why.empty()) return why;
  if (auto why = difference_of_other_additions(got, wanted, tolerance); !why.empty()) return why;
  auto a = change_of(got), b = change_of(wanted);
  if (is_nothing(a) != is_nothing(b)) return "it changes nothing";
  if (is_nothing(b)) return "";
  if (shape_of(a) != shape_of(b)) return "its weight has another size";
  auto apart = distance(normalised(a), normalised(b));
  return apart <= tolerance ? "" : fmt::format("it changes its weight otherwise, by {:.3g} of the change", apart);
}

// The layer as it is read from a file of the target.
LoraLayer as_read(const LoraLayer& layer, Target target) {
  if (is_dotted(target)) return as_peft(layer);
  auto read = as_kohya(layer);
  turn_embedding(read);
  return read;
}

bool adds_nothing(const LoraLayer& layer) {
  auto change = change_of(layer);
  auto bias = bias_change_of(layer);
  return !depends_on_base(layer.tensors) && (is_nothing(change) || norm(change) == 0) &&
         (!bias.defined() || at::count_nonzero(bias).item<int64_t>() == 0);
}

void compare_embeddings(const LoraFile& written, const LoraFile& source, const ReadBackOptions& options,
                        std::vector<std::string>& wrong) {
  std::map<std::pair<std::string, std::string>, Tensor> there;
  for (const auto& embedding : written.embeddings) there[{embedding.word, embedding.component}] = embedding.vectors;
  for (const auto& [word, component, key, vectors] : source.embeddings) {
    auto found = there.find({word, component});
    auto why = found == there.end() ? "they are missing"
                                    : difference(found->second, vectors, "vectors", options.tolerance(component));
    if (!why.empty()) wrong.push_back(fmt::format("the vectors of \"{}\" ({})", word, why));
  }
}

}  // namespace

void check_read_back(const LoraFile& written, const LoraFile& source, const ReadBackOptions& options) {
  std::vector<std::string> wrong;
  std::map<std::string, const LoraLayer*> by_name;
  for (const auto& layer : written.layers) by_name[layer.name()] = &layer;
  for (const auto& layer : source.layers) {
    auto name = layer.name();
    auto found = by_name.find(name);
    if (found == by_name.end()) {
      wrong.push_back(name + " (it is missing)");
      continue;
    }
    auto wanted = as_read(layer, options.target);
    auto why = difference(*found->second, wanted, kRounding + options.tolerance(name));
    if (!why.empty()) wrong.push_back(fmt::format("{} ({})", name, why));
    by_name.erase(found);
    if (options.after_layer) options.after_layer();
  }
  if (!is_dotted(options.target)) compare_embeddings(written, source, options, wrong);
  // Rows of a fused layer that no layer of the source has are zero.
  for (const auto& [name, layer] : by_name)
    if (!adds_nothing(*layer)) wrong.push_back(name + " (it is new)");
  for (const auto& [key, reason] : written.unmatched) wrong.push_back(fmt::format("{} ({})", key, reason));
  check(wrong.empty(), ErrorKind::unsupported,
        "{}: the format {} cannot store this file: read again, it would not be the same LoRA: {}. No file was written",
        source.source, to_string(options.target), listing(wrong, 3));
}

}  // namespace lora
