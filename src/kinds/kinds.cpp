#include "kinds/kinds.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "core/check.h"
#include "core/edge.h"
#include "kinds/builtin.h"
#include "kinds/lora.h"

namespace lora {

namespace {

std::vector<const Kind*>& all_kinds() {
  static std::vector<const Kind*> all = {&lora_kind(), &loha_kind(), &lokr_kind(), &glora_kind(),
                                         &ia3_kind(),  &oft_kind(),  &diff_kind()};
  return all;
}

struct NamedTensor {
  const TensorName* row;
  const TensorFamily* family;
};

// All names, the longer before those that they may end with.
const std::vector<NamedTensor>& named_by(std::string_view TensorName::*spelling) {
  auto made = [](std::string_view TensorName::*by) {
    std::vector<NamedTensor> all;
    auto add = [&](const TensorFamily& family) {
      for (const auto& row : family.names())
        if (!(row.*by).empty()) all.push_back({&row, &family});
    };
    for (auto* kind : kinds()) add(*kind);
    for (auto* addition : additions()) add(*addition);
    std::stable_sort(all.begin(), all.end(),
                     [&](auto& a, auto& b) { return (a.row->*by).size() > (b.row->*by).size(); });
    return all;
  };
  static const auto ours = made(&TensorName::ours), kohya = made(&TensorName::kohya), peft = made(&TensorName::peft);
  return spelling == &TensorName::ours ? ours : spelling == &TensorName::kohya ? kohya : peft;
}

const TensorName* ends_as(std::string_view key, std::string_view TensorName::*spelling) {
  for (const auto& [row, family] : named_by(spelling))
    if (key.ends_with(row->*spelling)) return row;
  return nullptr;
}

const NamedTensor* named(std::string_view suffix) {
  static const auto table = [] {
    std::unordered_map<std::string_view, NamedTensor> all;
    for (const auto& each : named_by(&TensorName::ours)) all.emplace(each.row->ours, each);
    return all;
  }();
  auto it = table.find(suffix);
  return it == table.end() ? nullptr : &it->second;
}

// Those that a layer has.
std::vector<const Addition*> additions_in(const LayerTensors& tensors) {
  std::vector<const Addition*> found;
  for (auto* addition : additions())
    if (addition->has_any(tensors)) found.push_back(addition);
  return found;
}

// Whether the key ends with a dot and that name.
bool ends_as_part(std::string_view key, std::string_view name) {
  return key.size() > name.size() && key.ends_with(name) && key[key.size() - name.size() - 1] == '.';
}

}  // namespace

const std::vector<const Kind*>& kinds() { return all_kinds(); }

// In the order in which they change a delta.
const std::vector<const Addition*>& additions() {
  static const std::vector<const Addition*> all = {&peft_magnitude(), &dora_scale(), &bias_difference(), &whole_bias()};
  return all;
}

void add_kind(const Kind& kind) { all_kinds().push_back(&kind); }

const Kind* kind_of(const LayerTensors& tensors) {
  auto it = std::find_if(kinds().begin(), kinds().end(), [&](auto* kind) { return kind->is(tensors); });
  return it == kinds().end() ? nullptr : *it;
}

const TensorFamily* family_of(std::string_view suffix) {
  auto* found = named(suffix);
  return found ? found->family : nullptr;
}

// ---- Names ----------------------------------------------------------------------------------------------------------

const TensorName* name_row(std::string_view suffix) {
  auto* found = named(suffix);
  return found ? found->row : nullptr;
}

std::pair<std::string_view, std::string_view> split_key(std::string_view key) {
  auto split = [&](std::string_view suffix) {
    return std::pair(key.substr(0, key.size() - suffix.size() - 1), key.substr(key.size() - suffix.size()));
  };
  for (const auto& [row, family] : named_by(&TensorName::ours))
    if (ends_as_part(key, row->ours)) return split(row->ours);
  for (auto strength : {kAlpha, kScale})
    if (ends_as_part(key, strength)) return split(strength);
  return {key, ""};
}

bool is_adapter_key(std::string_view key) {
  auto rest = key;
  auto suffix = take_peft_end(rest);
  if (suffix.empty()) suffix = take_kohya_end(rest);
  if (suffix.empty()) suffix = split_key(key).second;
  auto* row = name_row(suffix);
  return row && row->only_beside.empty();
}

std::string_view take_kohya_end(std::string_view& key) {
  std::string_view ours;
  auto rest = key;
  if (auto* row = ends_as(key, &TensorName::kohya)) {
    ours = row->ours;
    rest.remove_suffix(row->kohya.size());
    // "….lora.down.weight" is an older spelling of factors.
    if (row->kohya == ".weight" && (rest.ends_with(".down") || rest.ends_with(".up"))) return "";
  } else {
    for (auto strength : {kAlpha, kScale})
      if (ends_as_part(key, strength)) {
        ours = strength;
        rest.remove_suffix(strength.size() + 1);
      }
  }
  if (!ours.empty()) key = rest;
  return ours;
}

std::string_view take_peft_end(std::string_view& key) {
  constexpr std::string_view kWeight = ".weight", kBias = ".bias";
  auto stem = key;
  bool bias = key.ends_with(kBias);
  if (bias || key.ends_with(kWeight)) stem.remove_suffix((bias ? kBias : kWeight).size());
  auto take = [&](std::string_view rest) -> std::string_view {
    for (const auto& [row, family] : named_by(&TensorName::peft)) {
      auto end = row->peft;
      if (end.ends_with(kBias) != bias) continue;
      if (bias) end.remove_suffix(kBias.size());
      if (!rest.ends_with(end)) continue;
      rest.remove_suffix(end.size());
      key = rest;
      return row->ours;
    }
    return "";
  };
  auto found = take(stem);
  auto dot = stem.rfind('.');
  if (!found.empty() || dot == stem.npos) return found;
  return take(stem.substr(0, dot));  // with an adapter's name behind it
}

bool is_embedding_path(const std::string& path) {
  return path.ends_with("token_embedding") || path.ends_with("position_embedding") || path == "shared" ||
         path.ends_with("relative_attention_bias");
}

std::string peft_end(const std::string& path, std::string_view suffix) {
  bool embedding = is_embedding_path(path);
  if (embedding && suffix == kDown) return "lora_embedding_A";
  if (embedding && suffix == kUp) return "lora_embedding_B";
  return std::string(suffix);
}

// ---- One layer ------------------------------------------------------------------------------------------------------

std::string missing_of(const LayerTensors& tensors) {
  auto* kind = kind_of(tensors);
  return kind ? kind->missing(tensors) : "no lora_A and lora_B";
}

std::string kind_name(const LayerTensors& tensors) {
  auto* kind = kind_of(tensors);
  if (!kind) return "nothing";
  if (!kind->missing(tensors).empty()) return "half a pair";
  auto name = kind->full_name(tensors);
  for (auto* addition : additions_in(tensors)) {
    auto with = addition->full_name(*kind, tensors);
    if (with != kind->full_name(tensors)) name = with;
  }
  return name;
}

bool depends_on_base(const LayerTensors& tensors) {
  auto* kind = kind_of(tensors);
  auto found = additions_in(tensors);
  return (kind && kind->depends_on_base()) ||
         std::any_of(found.begin(), found.end(), [](auto* addition) { return addition->depends_on_base(); });
}

int64_t rank_of(const LayerTensors& tensors) {
  auto* kind = kind_of(tensors);
  return kind ? kind->rank(tensors) : 0;
}

WeightSize size_of(const LayerTensors& tensors) {
  auto* kind = kind_of(tensors);
  return kind ? kind->size(tensors) : WeightSize();
}

int row_dim_of(const LayerTensors& tensors, std::string_view suffix, const std::string& label) {
  auto* family = family_of(suffix);
  return family ? family->row_dim(tensors, suffix, label) : -1;
}

Factors factors_of(const LayerTensors& tensors) {
  auto* kind = kind_of(tensors);
  if (!kind) return Factors::never;
  auto factors = kind->factors(tensors);
  for (auto* addition : additions_in(tensors)) factors = addition->factors(factors, tensors);
  return factors;
}

bool CountedStrength::is_usable() const { return std::abs(value) <= std::numeric_limits<float>::max(); }

std::optional<CountedStrength> counted_strength(const LoraLayer& layer) {
  auto* kind = kind_of(layer.tensors);
  if (!kind) return std::nullopt;
  if (layer.scale && kind->has_strength()) return CountedStrength{kScale, *layer.scale};
  if (layer.alpha && kind->counts_alpha(layer.tensors)) return CountedStrength{kAlpha, *layer.alpha};
  return std::nullopt;
}

Effect change_of(const LoraLayer& layer) {
  auto* kind = kind_of(layer.tensors);
  return kind && kind->missing(layer.tensors).empty() ? kind->change(layer) : Effect();
}

namespace {

bool is_of_addition(std::string_view suffix) {
  auto* family = family_of(suffix);
  return std::any_of(additions().begin(), additions().end(), [&](auto* addition) { return addition == family; });
}

// No trainer adds up two kinds in one layer, so that such a file is two that were put together.
void check_one_kind(const Kind& kind, const LayerTensors& tensors, const std::string& label) {
  std::string_view first;
  for (const auto& name : kind.names())
    if (first.empty() && tensors.contains(name.ours)) first = name.ours;
  for (const auto& [suffix, tensor] : tensors) {
    check(family_of(suffix) == &kind || is_of_addition(suffix), ErrorKind::unsupported,
          "{}: tensors of two kinds, {} and {}", label, first, suffix);
  }
}

LoraLayer without_additions(LoraLayer layer) {
  std::erase_if(layer.tensors, [](auto& entry) { return is_of_addition(entry.first); });
  return layer;
}

}  // namespace

std::shared_ptr<const Delta> make_delta(const LoraLayer& layer, const Site& site, const MakeOptions& options) {
  auto* kind = kind_of(layer.tensors);
  auto missing = missing_of(layer.tensors);
  check(kind && missing.empty(), ErrorKind::bad_key, "{}: {}", options.label, missing);
  check_one_kind(*kind, layer.tensors, options.label);
  try {
    auto added = additions_in(layer.tensors);
    auto delta = added.empty() || kind->has_own_bias() ? kind->make(layer, site, options)
                                                       : kind->make(without_additions(layer), site, options);
    for (auto* addition : added) delta = addition->around(std::move(delta), *kind, layer, site, options);
    return delta;
  } catch (const c10::Error& error) {  // the tensors' own, of sizes that cannot be multiplied
    if (is_out_of_memory(error)) throw;
    fail(ErrorKind::bad_shape, "{}: its tensors do not go together: {}", options.label, message_of(error));
  }
}

LoraLayer as_kohya(LoraLayer layer) {
  auto* kind = kind_of(layer.tensors);
  if (kind) kind->to_kohya(layer);
  for (auto* addition : additions()) addition->to_kohya(layer);
  return layer;
}

LoraLayer as_peft(LoraLayer layer) {
  auto* kind = kind_of(layer.tensors);
  if (kind) kind->to_peft(layer);
  for (auto* addition : additions()) addition->to_peft(layer);
  return layer;
}

// ---- Parts of fused layers ------------------------------------------------------------------------------------------

LoraLayer cut(const LoraLayer& whole, RowSlice slice, const std::string& label) {
  if (slice.whole()) return whole;
  auto* kind = kind_of(whole.tensors);
  return kind ? kind->cut(whole, slice, label) : cut_rows(whole, slice, label);
}

LoraLayer with_halves_swapped(const LoraLayer& layer, const std::string& label) {
  auto* kind = kind_of(layer.tensors);
  return kind ? kind->with_halves_swapped(layer, label) : swap_halves(layer, label);
}

LoraLayer join(const std::vector<SlicedLayer>& parts, const std::string& label) {
  const auto& first = parts.front().layer.tensors;
  for (const auto& part : parts)
    check(std::equal(part.layer.tensors.begin(), part.layer.tensors.end(), first.begin(), first.end(),
                     [](auto& a, auto& b) { return a.first == b.first; }),
          ErrorKind::unsupported, "{}: the layers that go together here are of different kinds", label);
  auto* kind = kind_of(first);
  check(kind, ErrorKind::bad_key, "{}: {}", label, missing_of(first));
  return kind->join(parts, kind->same_inputs(parts), label);
}

}  // namespace lora
