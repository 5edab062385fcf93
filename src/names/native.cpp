#include "names/native.h"

#include <algorithm>
#include <unordered_map>

#include "core/text.h"
#include "names/flux.h"
#include "names/ldm.h"

namespace lora {

namespace {

constexpr int64_t kLayersPerBlock = 2;

constexpr std::string_view kUNet[] = {"input_blocks.", "middle_block.", "output_blocks.", "time_embed.",
                                      "label_emb.",    "out.0",         "out.2"};
constexpr std::string_view kSd3[] = {"joint_blocks.", "x_embedder.proj", "t_embedder.", "y_embedder.", "final_layer."};
constexpr std::string_view kFlux[] = {"double_blocks.", "single_blocks.", "img_in",      "txt_in",
                                      "time_in.",       "vector_in.",     "guidance_in."};

template <size_t N>
bool starts_with_any(std::string_view path, const std::string_view (&starts)[N]) {
  return std::any_of(std::begin(starts), std::end(starts), [&](auto start) { return path.starts_with(start); });
}

// "double_blocks.7.img_mod.lin" as "double_blocks.#.img_mod.lin" and "7".
std::pair<std::string, std::string> numbered(std::string_view path) {
  auto dot = path.find('.');
  auto next = dot == path.npos ? path.npos : path.find('.', dot + 1);
  if (next == path.npos) return {std::string(path), ""};
  auto number = path.substr(dot + 1, next - dot - 1);
  if (number.find_first_not_of("0123456789") != number.npos) return {std::string(path), ""};
  return {std::string(path.substr(0, dot + 1)) + "#" + std::string(path.substr(next)), std::string(number)};
}

using FluxTable = std::unordered_multimap<std::string_view, const FluxRow*>;

FluxTable flux_table(std::string_view FluxRow::*name) {
  FluxTable table;
  for (const auto& row : flux_rows()) table.emplace(row.*name, &row);
  return table;
}

std::optional<NativeLayer> flux_layer(std::string_view path) {
  static const auto table = flux_table(&FluxRow::native);
  auto [pattern, number] = numbered(path);
  auto [first, last] = table.equal_range(pattern);
  if (first == last) return std::nullopt;
  NativeLayer layer{.halves = first->second->halves};
  for (auto it = first; it != last; ++it)
    layer.layers.push_back({replace_all(std::string(it->second->ours), "#", number), it->second->rows});
  std::sort(layer.layers.begin(), layer.layers.end(), [](auto& a, auto& b) { return a.rows.begin < b.rows.begin; });
  return layer;
}

// The tables of names_ldm.h are of tensors' names: a layer's with its dot.
std::string layer_name(const std::string& with_dot) { return with_dot.substr(0, with_dot.size() - !with_dot.empty()); }

// OMI numbers q, k and v below the fused layer.
std::optional<NativeLayer> omi_part(std::string_view path) {
  constexpr std::string_view kFused = ".attn.qkv.", kFused2 = ".attn2.qkv.";
  for (auto fused : {kFused, kFused2}) {
    auto at = path.find(fused);
    if (at == path.npos || path.size() != at + fused.size() + 1) continue;
    auto all = native_layer(path.substr(0, path.size() - 2), NativeNames::sd3);
    auto part = size_t(path.back() - '0');
    if (!all || part >= all->layers.size()) return std::nullopt;
    return NativeLayer{{{all->layers[part].path, {}}}};
  }
  return std::nullopt;
}

Halves sd3_halves(std::string_view native) {
  if (native == "final_layer.adaLN_modulation.1") return Halves::swapped;
  return native.ends_with(".context_block.adaLN_modulation.1") ? Halves::swapped_if_two : Halves::as_they_are;
}

std::optional<NativeLayer> sd3_layer(std::string_view path) {
  if (!starts_with_any(path, kSd3)) return std::nullopt;
  if (auto part = omi_part(path)) return part;
  auto name = layer_name(sd3_name_from_original(std::string(path) + "."));
  if (name.empty()) return std::nullopt;
  if (name.find(kFusedMark) == name.npos) return NativeLayer{{{name, {}}}, sd3_halves(path)};
  NativeLayer layer;
  for (int i = 0; i < 3; ++i)
    layer.layers.push_back({replace_all(name, std::string(kFusedMark), std::string(kFusedNames[i])), {i, i + 1, 3}});
  return layer;
}

}  // namespace

bool is_flux_native(std::string_view path) { return starts_with_any(path, kFlux); }

bool is_native(std::string_view path) {
  return starts_with_any(path, kUNet) || starts_with_any(path, kSd3) || starts_with_any(path, kFlux);
}

std::optional<NativeLayer> native_layer(std::string_view path, NativeNames layout) {
  switch (layout) {
    case NativeNames::none: return std::nullopt;
    case NativeNames::flux: return flux_layer(path);
    case NativeNames::sd3: return sd3_layer(path);
    case NativeNames::unet: break;
  }
  if (!starts_with_any(path, kUNet)) return std::nullopt;
  auto name = layer_name(unet_name_from_ldm(std::string(path) + ".", kLayersPerBlock));
  return name.empty() ? std::nullopt : std::optional(NativeLayer{{{name, {}}}});
}

namespace {

std::optional<NativePlace> flux_place(const std::string& path) {
  static const auto table = flux_table(&FluxRow::ours);
  auto [pattern, number] = numbered(path);
  auto [first, last] = table.equal_range(pattern);
  for (auto it = first; it != last; ++it)
    if (auto& row = *it->second; !row.read_only)
      return NativePlace{replace_all(std::string(row.native), "#", number), row.rows, row.halves};
  return std::nullopt;
}

std::optional<NativePlace> sd3_place(const std::string& path) {
  auto [name, part] = sd3_name_to_original(path + ".");
  auto native = layer_name(name);
  if (native.empty()) return std::nullopt;
  return NativePlace{native, part < 0 ? RowSlice() : RowSlice{part, part + 1, 3}, sd3_halves(native)};
}

}  // namespace

std::optional<NativePlace> native_place(const std::string& path, const BaseModelRow& base_model) {
  switch (base_model.native) {
    case NativeNames::none: return std::nullopt;
    case NativeNames::flux: return flux_place(path);
    case NativeNames::sd3: return sd3_place(path);
    case NativeNames::unet: break;
  }
  auto name = layer_name(unet_name_to_ldm(path + ".", kLayersPerBlock, base_model.first_attention).name);
  return name.empty() ? std::nullopt : std::optional(NativePlace{name});
}

}  // namespace lora
