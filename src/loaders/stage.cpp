#include "loaders/stage.h"

#include <algorithm>

#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "dialects/base_model_of.h"
#include "loaders/bundled_words.h"
#include "names/base_model.h"

namespace lora {

namespace {

constexpr const char* kNoComponent = "the pipeline has no such component";
constexpr const char* kControlLora =
    "of a Control-LoRA, which adapts a ControlNet made of the base model's encoder; no pipeline here has one";

BaseModel base_model_of(const Parts& denoiser) {
  std::vector<LayerTrace> layers;
  for (const auto& site : denoiser.sites) layers.push_back({.path = site->path});
  return base_model_of(layers, {}).model;
}

// A file for another base model is one error, not a list of misfits.
void check_base_model(const LoraFile& file, const std::string& component, const Parts& denoiser) {
  auto refuse = [&](std::string_view theirs, std::string_view ours) {
    fail(ErrorKind::bad_shape, "{}: this LoRA is for {}; the model is for {}; nothing was loaded", file.source, theirs,
         ours);
  };
  if (auto* row = row_of(file.base_model)) {
    if (row->is_foreign())
      refuse(row->label, component == "transformer" ? to_string(base_model_of(denoiser)) : "a UNet");
    if (component != "transformer" && row->has_transformer()) refuse(row->label, "a UNet");
    auto ours = component == "transformer" ? base_model_of(denoiser) : file.base_model;
    if (ours != file.base_model) refuse(row->label, to_string(ours));
  }
  if (file.cross_attention == 0) return;
  for (const auto& site : denoiser.sites) {
    if (!site->path.ends_with("attn2.to_k")) continue;
    auto name = [](int64_t width) {
      auto* row = row_of(unet_with_cross_attention(width));
      return fmt::format("{}text embeddings of width {}", row ? fmt::format("{}, with ", row->label) : "", width);
    };
    auto wanted = site->weight.size(1);
    if (file.cross_attention != wanted) refuse(name(file.cross_attention), name(wanted));
    return;
  }
}

// The adapter's part of one component; nullptr where the file has nothing for it.
std::shared_ptr<const Adapter> stage_part(const LoraFile& file, const AdapterRegistry& registry,
                                          const AdapterRegistry::Component& c, LoadReport& report) {
  auto words = words_for(c, file, report);
  std::vector<const LoraLayer*> layers;
  for (const auto& layer : file.layers)
    if (layer.component == c.name) layers.push_back(&layer);
  if (layers.empty() && words.empty()) return nullptr;
  auto prepared = prepare(*c.parts, layers,
                          {.component = c.name,
                           .base = [&](const Site& site) { return registry.base(site); },
                           .base_bias = [&](const Site& site) { return registry.base_bias(site); }});
  report.notes.insert(report.notes.end(), prepared.notes.begin(), prepared.notes.end());
  report.unmatched.insert(report.unmatched.end(), prepared.unmatched.begin(), prepared.unmatched.end());
  if (!prepared.adapter.entries.empty()) report.components.push_back(std::move(prepared.report));
  if (prepared.adapter.entries.empty() && words.empty()) return nullptr;
  prepared.adapter.words = std::move(words);
  return std::make_shared<const Adapter>(std::move(prepared.adapter));
}

}  // namespace

StagedLoad stage(const LoraFile& file, const AdapterRegistry& registry, const std::vector<size_t>& chosen) {
  const SnapshotScope unwritten(registry);  // some kinds look at base weights
  StagedLoad staged;
  staged.report = {.source = file.source, .dialect = file.dialect, .unmatched = file.unmatched, .notes = file.notes};
  const auto& components = registry.components();
  const auto& denoiser = components.front();
  check_base_model(file, denoiser.name, *denoiser.parts);
  staged.parts.resize(components.size());
  named(file.source, [&] {
    for (auto i : chosen) staged.parts[i] = stage_part(file, registry, components[i], staged.report);
  });

  auto is_chosen = [&](const std::string& name) {
    return std::any_of(chosen.begin(), chosen.end(), [&](auto i) { return components[i].name == name; });
  };
  auto& unmatched = staged.report.unmatched;
  size_t tensors = 0;
  for (const auto& layer : file.layers) {
    tensors += layer.tensors.size();
    if (is_chosen(layer.component)) continue;
    for (const auto& [suffix, tensor] : layer.tensors)
      unmatched.push_back({layer.name() + "." + suffix, layer.component == "controlnet" ? kControlLora : kNoComponent});
  }
  for (const auto& embedding : file.embeddings)
    if (!is_chosen(embedding.component)) unmatched.push_back({embedding.key, kNoComponent});
  auto& skipped = staged.report.notes;
  bool not_sound = skipped.size() > file.notes.size();
  check(!staged.report.components.empty() || !not_sound, ErrorKind::bad_file,
        "{}: no sound layer is left, so it would change nothing: {}", file.source, join(skipped, "; "));
  if (staged.report.components.empty())
    fail(ErrorKind::bad_key,
         "{}: none of its {} belongs to a layer of this model, so it would change nothing; the first: {} ({})",
         file.source, counted(tensors, "tensor"), unmatched.empty() ? "none" : unmatched.front().key,
         unmatched.empty() ? "" : unmatched.front().reason);
  return staged;
}

}  // namespace lora
