#include "files/layer_facts.h"

#include <algorithm>

#include "core/edge.h"
#include "core/text.h"
#include "files/inspect_checks.h"
#include "kinds/kinds.h"

namespace lora {

namespace {

using Facts = Inspection::Layer;

const PublishedComponent& best_fit(const std::vector<PublishedComponent>& candidates, const std::vector<Facts>& layers,
                                   const std::string& component) {
  if (candidates.size() == 1) return candidates.front();
  auto fitting = [&](const PublishedComponent& model) {
    return std::count_if(layers.begin(), layers.end(), [&](auto& layer) {
      auto it = model.layers.find(layer.path);
      return layer.component == component && it != model.layers.end() && fits(layer, it->second);
    });
  };
  return *std::max_element(candidates.begin(), candidates.end(),
                           [&](auto& a, auto& b) { return fitting(a) < fitting(b); });
}

}  // namespace

Facts described(const LoraLayer& layer) {
  Facts facts{.component = layer.component, .path = layer.path, .kind = layer.kind};
  facts.incomplete = !missing_of(layer.tensors).empty();
  facts.depends_on_base = depends_on_base(layer.tensors);
  try {
    auto size = size_of(layer.tensors);
    facts.rank = rank_of(layer.tensors);
    facts.rows = size.rows;
    facts.columns = size.columns;
    facts.convolution = !size.kernel.empty();
  } catch (const std::exception& error) {  // libtorch's are about sizes that do not go together
    if (is_out_of_memory(error)) throw;
    facts.error = message_of(error);
  }
  return facts;
}

std::string algorithm_of(const std::vector<Facts>& layers) {
  std::map<std::string, size_t> counts;
  for (const auto& layer : layers) ++counts[layer.kind];
  std::vector<std::pair<size_t, std::string>> order;
  for (const auto& [kind, n] : counts) order.emplace_back(n, kind);
  std::stable_sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.first > b.first; });
  std::vector<std::string> kinds;
  for (const auto& [n, kind] : order) kinds.push_back(kind);
  return join(kinds, " + ");
}

std::string trainer_of(const LoraFile& file) {
  const auto& metadata = file.metadata;
  auto value = [&](const char* key) {
    auto it = metadata.find(key);
    return it == metadata.end() ? std::string() : it->second;
  };
  auto software = value("software");
  if (metadata.contains("ot_branch") || metadata.contains("ot_revision")) return "OneTrainer";
  if (software.find("ai-toolkit") != software.npos) return "ai-toolkit";
  if (auto module = value("ss_network_module"); !module.empty())
    return fmt::format("{} ({})",
                       module.starts_with("lycoris") ? "LyCORIS in kohya's sd-scripts" : "kohya's sd-scripts", module);
  if (auto implementation = value("modelspec.implementation"); !implementation.empty()) return implementation;
  if (!software.empty()) return software.substr(0, 100);
  if (metadata.contains("lora_adapter_metadata")) return "PEFT";
  if (file.dialect == "cloneofsimo") return "cloneofsimo's lora";
  if (file.dialect.starts_with("xlabs")) return "XLabs";
  if (file.dialect.starts_with("lycoris")) return "LyCORIS around diffusers (SimpleTuner)";
  return "";
}

PublishedByComponent published_for(const std::vector<Facts>& layers, BaseModel base_model, PublishedModels& models) {
  std::map<std::string, const PublishedComponent*> published;
  for (const auto& layer : layers) {
    auto [it, fresh] = published.try_emplace(layer.component, nullptr);
    if (!fresh) continue;
    const auto& candidates = models.of(base_model, layer.component);
    if (!candidates.empty()) it->second = &best_fit(candidates, layers, layer.component);
  }
  std::erase_if(published, [](auto& row) { return !row.second; });
  return published;
}

}  // namespace lora
