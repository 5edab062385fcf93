#include "dialects/spell.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/text.h"
#include "dialects/base_model_of.h"
#include "dialects/tables.h"
#include "kinds/kinds.h"
#include "names/base_model.h"
#include "names/native.h"

namespace lora {

namespace {

constexpr std::pair<Target, const char*> kTargets[] = {
    {Target::diffusers, "diffusers"}, {Target::peft, "peft"}, {Target::kohya, "kohya"}, {Target::comfy, "comfy"}};

// What cannot be said, by reason, with the layers that it is about.
class Refused {
 public:
  void add(const std::string& reason, const std::string& layer) { layers_[reason].push_back(layer); }
  void tell(Target target) const {
    std::vector<std::string> all;
    for (const auto& [reason, layers] : layers_)
      all.push_back(fmt::format("{} ({}: {})", reason, counted(layers.size(), "layer"), listing(layers, 3)));
    check(all.empty(), ErrorKind::unsupported, "the format {} cannot store everything in this file: {}",
          to_string(target), join(all, "; "));
  }

 private:
  std::map<std::string, std::vector<std::string>> layers_;
};

// One tensor, made by `layer` when it is asked for.
Spelled spelled(const std::string& component, std::string key, const std::string& suffix, const Tensor& like,
                const std::function<LoraLayer()>& layer, size_t number) {
  return {component,
          std::move(key),
          suffix,
          like.scalar_type(),
          like.sizes().vec(),
          [suffix, layer] { return get(layer().tensors, suffix); },
          layer,
          number};
}

// Strengths are float32 in every file.
Spelled spelled_number(const std::string& component, const std::string& layer, std::string_view name, double value) {
  check(std::isfinite(float(value)) && (value == 0 || float(value) != 0), ErrorKind::unsupported,
        "float32 cannot hold its {}, {:g}", name, value);
  auto tensor = at::scalar_tensor(value);
  return {component, fmt::format("{}.{}", layer, name), std::string(name), tensor.scalar_type(),
          {},        [tensor] { return tensor; }};
}

bool is_text_encoder(const std::string& component) { return component.starts_with("text_encoder"); }

// ---- kohya and ComfyUI: native names --------------------------------------------------------------------------------

// One layer of the target's, with the layers that go into it.
struct Place {
  std::string component, path;
  Halves halves = Halves::as_they_are;
  std::vector<SlicedLayer> parts;
  bool swaps = false;
  std::string flat = "";  // its name in the file, where that is kept

  std::string name() const { return component + "." + path; }
};

// How wide Stable Diffusion 3's blocks are, as far as the file tells; 0 where it does not.
int64_t block_width(const std::vector<LoraLayer>& layers) {
  for (const auto& layer : layers)
    if (layer.path.starts_with("transformer_blocks.") && !layer.path.ends_with(".net.2"))
      if (auto columns = size_of(layer.tensors).columns) return columns;
  return 0;
}

// Only the last block's modulation, of two rows a column, has its halves the other way round.
bool swaps_halves(const Place& place, int64_t width) {
  auto rows = size_of(place.parts.front().layer.tensors).rows;
  if (place.halves != Halves::swapped_if_two || rows == 0) return place.halves == Halves::swapped;
  check(width > 0, ErrorKind::unsupported, "nothing tells whether {} is the layer of the last block", place.path);
  return rows == 2 * width;
}

constexpr const char* kSayBase = "say it: --base NAME";

// A layer's name in a file of kohya's, as it stands there; "" for a file of another program.
std::string flat_name_in_file(const LoraLayer& layer) {
  std::string name;
  for (const auto& [suffix, key] : layer.keys) {
    std::string_view stem = key;
    if (!read_kohya(key) || take_known_end(stem).empty() || !(name.empty() || name == stem)) return "";
    name = stem;
  }
  return name;
}

// A width that published models have. Narrower ones are test models, whose names nothing else reads.
bool is_published_size(const LoraLayer& layer) {
  constexpr int64_t kNarrowest = 320;
  auto size = size_of(layer.tensors);
  return std::max(size.rows, size.columns) >= kNarrowest;
}

// The row whose names a file gets. kohya's names for a UNet that nobody published are those of Stable Diffusion 1,
// with numbers in its text encoders' names where there are several.
const BaseModelRow& naming_row(const std::vector<LoraLayer>& layers, Target target, BaseModel base_model) {
  if (auto* row = row_of(base_model)) {
    check(!row->components.front().kohya.empty(), ErrorKind::unsupported,
          "{} does not have names for {}; diffusers and peft do", to_string(target), row->label);
    return *row;
  }
  auto any = [&](const char* component) {
    return std::any_of(layers.begin(), layers.end(), [&](auto& layer) { return layer.component == component; });
  };
  bool named = std::all_of(layers.begin(), layers.end(),
                           [](auto& layer) { return !flat_name_in_file(layer).empty() || !is_published_size(layer); });
  check(target == Target::kohya && named && !any("transformer"), ErrorKind::unsupported,
        "the names of the format {} depend on the base model, which this file does not tell; {}", to_string(target),
        kSayBase);
  return *row_of(any("text_encoder_2") ? BaseModel::sd3 : BaseModel::sd1);
}

bool is_of_unet(const std::string& path) {
  static constexpr std::string_view kEnds[] = {"conv_in", "conv_out", "conv_norm_out", "time_embedding.",
                                               "add_embedding."};
  return is_unet_path(path) ||
         std::any_of(std::begin(kEnds), std::end(kEnds), [&](auto end) { return path.starts_with(end); });
}

// Nothing is renamed for a model whose names are not known here.
void check_names_are_known(const std::vector<LoraLayer>& layers, BaseModel base_model) {
  auto* row = row_of(base_model);
  check(!row || !row->is_foreign(), ErrorKind::unsupported,
        "it is for {}, and the names that its layers have in other formats are not known here. Convert it with a "
        "program for that model; if it is for another one, {}",
        row ? row->label : "", kSayBase);
  if (row) return;
  std::vector<std::string> others;
  for (const auto& layer : layers) {
    auto begins = [&](auto& entry) { return std::string_view(entry.second).starts_with(layer.component + "."); };
    bool says_component = std::all_of(layer.keys.begin(), layer.keys.end(), begins);
    if (!is_text_encoder(layer.component) && !is_of_unet(layer.path) && !says_component) others.push_back(layer.path);
  }
  check(others.empty(), ErrorKind::unsupported,
        "nothing tells for which base model layers of these names are, so they cannot be renamed: {}; {}",
        listing(others, 3), kSayBase);
}

std::vector<Place> places(const std::vector<LoraLayer>& layers, Target target, const BaseModelRow& row,
                          bool diffusers_names, BaseModel base_model, Refused& refused) {
  std::vector<Place> all;
  std::unordered_map<std::string, size_t> where;
  for (const auto& layer : layers) {
    bool as_is = is_text_encoder(layer.component) || (target == Target::kohya && diffusers_names);
    if (auto name = flat_name_in_file(layer); base_model == BaseModel::unknown && !name.empty()) {
      all.push_back({layer.component, layer.path, Halves::as_they_are, {{{}, layer}}, false, name});
      continue;
    }
    auto native = as_is ? NativePlace{layer.path} : native_place(layer.path, row);
    if (!native) {
      refused.add("there is no such layer in the model's own code", layer.name());
      continue;
    }
    auto [it, fresh] = where.emplace(layer.component + "." + native->path, all.size());
    if (fresh) all.push_back({layer.component, native->path, native->halves, {}});
    all[it->second].parts.push_back({native->rows, layer});
  }
  auto width = block_width(layers);
  for (auto& place : all) {
    place.swaps = swaps_halves(place, width);
    std::sort(place.parts.begin(), place.parts.end(), [](auto& a, auto& b) { return a.rows.begin < b.rows.begin; });
  }
  return all;
}

// The place's adapter as the target has it. Asked once for the sizes, and again for each tensor.
LoraLayer made(const Place& place) {
  auto parts = place.parts;
  for (auto& part : parts) part.layer = as_kohya(std::move(part.layer));
  bool whole = parts.size() == 1 && parts.front().rows.whole();
  auto layer = whole ? parts.front().layer : join(parts, place.name());
  return place.swaps ? with_halves_swapped(layer, place.name()) : layer;
}

std::string key_of(const Place& place, Target target, const BaseModelRow& row) {
  if (!place.flat.empty()) return place.flat;
  auto* names =
      row.component(place.component == "unet" || place.component == "transformer" ? row.denoiser() : place.component);
  check(names && !names->kohya.empty(), ErrorKind::unsupported, "the format does not have a name for the component {}",
        place.component);
  if (target == Target::kohya) return std::string(names->kohya) + replace_all(place.path, ".", "_");
  if (!is_text_encoder(place.component)) return fmt::format("{}.{}", names->comfy, place.path);
  return fmt::format("text_encoders.{}.transformer.{}", names->comfy, place.path);
}

std::vector<Spelled> spell_native(const std::vector<LoraLayer>& layers, Target target, BaseModel base_model) {
  const auto& row = naming_row(layers, target, base_model);
  bool diffusers_names = base_model == BaseModel::unknown || !row.kohya_has_native_names;
  Refused refused;
  std::vector<Spelled> all;
  size_t number = 0;
  for (const auto& found : places(layers, target, row, diffusers_names, base_model, refused)) {
    auto place = std::make_shared<const Place>(found);
    auto key = key_of(*place, target, row);
    try {
      auto layer = made(*place);
      for (const auto& [suffix, tensor] : layer.tensors) {
        auto end = family_of(suffix)->kohya_end(layer.tensors, suffix);
        check(!end.empty(), ErrorKind::unsupported, "the format cannot store {}", suffix);
        all.push_back(spelled(
            place->component, key + std::string(end), suffix, tensor, [place] { return made(*place); }, number));
      }
      bool says_alpha = layer.alpha && (!layer.scale || layer.keys.contains(kAlpha));
      if (says_alpha) all.push_back(spelled_number(place->component, key, kAlpha, *layer.alpha));
      if (layer.scale) all.push_back(spelled_number(place->component, key, kScale, *layer.scale));
      ++number;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported) throw;
      refused.add(replace_all(error.what(), place->name() + ": ", ""), place->name());
    }
  }
  refused.tell(target);
  return all;
}

// ---- diffusers and PEFT: dotted names -------------------------------------------------------------------------------

// transformers 5 has CLIPTextModel's layers without a level above them; with a projection it kept the level.
std::string peft_path(const LoraLayer& layer, BaseModel base_model) {
  constexpr std::string_view kLevel = "text_model.";
  auto* row = row_of(base_model);
  auto* component = row ? row->component(layer.component) : nullptr;
  bool drops = row ? component && component->drops_text_model : layer.component == "text_encoder";
  return drops && layer.path.starts_with(kLevel) ? layer.path.substr(kLevel.size()) : layer.path;
}

std::vector<Spelled> spell_dotted(const std::vector<LoraLayer>& layers, Target target, BaseModel base_model) {
  Refused refused;
  std::vector<Spelled> all;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto& layer = layers[i];
    auto there = as_peft(layer);
    auto prefix = target == Target::peft ? "base_model.model." + peft_path(layer, base_model) : layer.name();
    for (const auto& [suffix, tensor] : there.tensors) {
      if (!name_row(suffix)->in_lora_files) {
        refused.add(std::string(family_of(suffix)->spoken(suffix)), layer.name());
        break;
      }
      all.push_back(spelled(
          layer.component, prefix + "." + peft_end(layer.path, suffix), suffix, tensor,
          [layer] { return as_peft(layer); }, i));
    }
  }
  refused.tell(target);
  return all;
}

}  // namespace

const char* to_string(Target target) {
  for (auto [known, name] : kTargets)
    if (known == target) return name;
  return "";
}

Target parse_target(const std::string& name) {
  std::vector<std::string> names;
  for (auto [target, known] : kTargets) {
    if (name == known) return target;
    names.push_back(known);
  }
  fail(ErrorKind::usage, "\"{}\" is no format that can be written; there are: {}", name, join(names, ", "));
}

std::vector<Spelled> spell(const std::vector<LoraLayer>& layers, Target target, BaseModel base_model) {
  check_names_are_known(layers, base_model);
  return is_dotted(target) ? spell_dotted(layers, target, base_model) : spell_native(layers, target, base_model);
}

}  // namespace lora
