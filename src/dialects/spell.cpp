#include "dialects/spell.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/check.h"
#include "core/text.h"
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
      all.push_back(fmt::format("{} ({} layers: {})", reason, layers.size(), listing(layers, 3)));
    check(all.empty(), ErrorKind::unsupported, "the format {} cannot store everything in this file: {}",
          to_string(target), join(all, "; "));
  }

 private:
  std::map<std::string, std::vector<std::string>> layers_;
};

// One tensor, made by `layer` when it is asked for.
Spelled spelled(const std::string& component, std::string key, const std::string& suffix, const Tensor& like,
                std::function<LoraLayer()> layer) {
  return {component,
          std::move(key),
          suffix,
          like.scalar_type(),
          like.sizes().vec(),
          [suffix, layer = std::move(layer)] { return get(layer().tensors, suffix); }};
}

Spelled spelled_number(const std::string& component, const std::string& layer, std::string_view name, double value) {
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
  check(target == Target::kohya && !any("transformer"), ErrorKind::unsupported,
        "the names of the format {} depend on the base model, which this file does not tell", to_string(target));
  return *row_of(any("text_encoder_2") ? BaseModel::sd3 : BaseModel::sd1);
}

std::vector<Place> places(const std::vector<LoraLayer>& layers, Target target, const BaseModelRow& row,
                          bool diffusers_names, Refused& refused) {
  std::vector<Place> all;
  std::unordered_map<std::string, size_t> where;
  for (const auto& layer : layers) {
    bool as_is = is_text_encoder(layer.component) || (target == Target::kohya && diffusers_names);
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
  for (const auto& found : places(layers, target, row, diffusers_names, refused)) {
    auto place = std::make_shared<const Place>(found);
    auto key = key_of(*place, target, row);
    try {
      auto layer = made(*place);
      for (const auto& [suffix, tensor] : layer.tensors) {
        auto end = family_of(suffix)->kohya_end(layer.tensors, suffix);
        check(!end.empty(), ErrorKind::unsupported, "the format cannot store {}", suffix);
        all.push_back(
            spelled(place->component, key + std::string(end), suffix, tensor, [place] { return made(*place); }));
      }
      bool says_alpha = layer.alpha && (!layer.scale || layer.keys.contains(kAlpha));
      if (says_alpha) all.push_back(spelled_number(place->component, key, kAlpha, *layer.alpha));
      if (layer.scale) all.push_back(spelled_number(place->component, key, kScale, *layer.scale));
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
  for (const auto& layer : layers) {
    auto there = as_peft(layer);
    auto prefix = target == Target::peft ? "base_model.model." + peft_path(layer, base_model) : layer.name();
    for (const auto& [suffix, tensor] : there.tensors) {
      if (!name_row(suffix)->in_lora_files) {
        refused.add(std::string(family_of(suffix)->spoken(suffix)), layer.name());
        break;
      }
      all.push_back(spelled(layer.component, prefix + "." + peft_end(layer.path, suffix), suffix, tensor,
                            [layer] { return as_peft(layer); }));
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
  return is_dotted(target) ? spell_dotted(layers, target, base_model) : spell_native(layers, target, base_model);
}

}  // namespace lora
