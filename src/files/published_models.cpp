#include "files/published_models.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/text.h"
#include "lora/denoisers.h"
#include "lora/text_encoders.h"
#include "models/parts_of.h"
#include "names/base_model.h"
#include "names/flux.h"

namespace lora {

namespace {

template <class Built>
std::shared_ptr<Parts> build(const std::string& config) {
  auto model = Built::random(config, 0, {.device = at::kMeta});
  return shared_parts_of(model);
}

constexpr std::pair<std::string_view, std::shared_ptr<Parts> (*)(const std::string& config)> kClasses[] = {
    {"UNet2DConditionModel", build<UNet2DConditionModel>},
    {"SD3Transformer2DModel", build<SD3Transformer2DModel>},
    {"UVit2DModel", build<UVit2DModel>},
    {"CLIPTextModel", build<CLIPTextModel>},
    {"CLIPTextModelWithProjection", build<CLIPTextModel>},
    {"T5EncoderModel", build<T5EncoderModel>},
};

PublishedComponent listed(const ComponentRow& component, const PublishedConfig& published) {
  PublishedComponent found{.model = std::string(published.label), .layers = {}};
  for (const auto& [name, build] : kClasses) {
    if (name != component.class_name) continue;
    auto parts = build(std::string(published.config));
    for (const auto& site : parts->sites) found.layers[site->path] = {site->kind, site->weight.sizes().vec()};
  }
  return found;
}

// Of a network that no class here runs only the names of its layers are known.
PublishedComponent flux_transformer(const PublishedConfig& published) {
  PublishedComponent found{.model = std::string(published.label), .layers = {}};
  for (const auto& row : flux_rows()) {
    auto blocks = row.native.starts_with("double_blocks.")   ? kFluxDoubleBlocks
                  : row.native.starts_with("single_blocks.") ? kFluxSingleBlocks
                                                             : 1;
    bool norm = row.native.ends_with("_norm");
    for (int i = 0; i < blocks; ++i)
      found.layers[replace_all(std::string(row.ours), "#", std::to_string(i))].kind =
          norm ? SiteKind::norm : SiteKind::linear;
  }
  return found;
}

}  // namespace

size_t PublishedComponent::trainable() const {
  return static_cast<size_t>(std::count_if(layers.begin(), layers.end(), [](auto& layer) {
    return layer.second.kind == SiteKind::linear || layer.second.kind == SiteKind::conv2d;
  }));
}

std::vector<PublishedComponent> published_components(BaseModel base_model, const std::string& component) {
  auto* row = row_of(base_model);
  auto* known = row ? row->component(component) : nullptr;
  std::vector<PublishedComponent> found;
  if (!known) return found;
  for (const auto& published : known->published)
    found.push_back(published.config.empty() ? flux_transformer(published) : listed(*known, published));
  return found;
}

const std::vector<PublishedComponent>& PublishedModels::of(BaseModel base_model, const std::string& component) {
  std::lock_guard lock(mutex_);
  auto [it, fresh] = made_.try_emplace({base_model, component});
  if (fresh) it->second = published_components(base_model, component);
  return it->second;
}

}  // namespace lora
