#include "files/convert_metadata.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kinds/builtin.h"
#include "kinds/kinds.h"
#include "loaders/adapter_fields.h"
#include "loaders/metadata.h"
#include "names/base_model.h"

namespace lora {

using nlohmann::json;

namespace {

using Metadata = std::map<std::string, std::string>;

// Without what is about the old file's form or bytes.
Metadata kept(const LoraFile& source) {
  auto metadata = source.metadata;
  for (const char* gone : {kAdapterMetadata, "format", "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"})
    metadata.erase(gone);
  return metadata;
}

// The source's fields of one component, as far as they say nothing of strengths.
json fields_of_source(const std::string& component, const LoraFile& source) {
  json fields = json::object();
  auto entry = source.metadata.find(kAdapterMetadata);
  if (entry == source.metadata.end()) return fields;
  auto all = json::parse(entry->second, nullptr, /*allow_exceptions=*/false);
  auto prefix = component + ".";
  for (const auto& [key, value] : all.items())
    if (key.starts_with(prefix)) fields[key.substr(prefix.size())] = value;
  fields.erase("use_rslora");
  return fields;
}

// The value that most layers have.
template <class Value>
Value most_common(const std::vector<Value>& values) {
  std::map<Value, size_t> counts;
  for (const auto& value : values) ++counts[value];
  return std::max_element(counts.begin(), counts.end(), [](auto& a, auto& b) { return a.second < b.second; })->first;
}

// LyCORIS' module for all but plain LoRA.
std::string_view network_module(const LoraFile& file) {
  bool plain = std::all_of(file.layers.begin(), file.layers.end(), [](auto& layer) {
    return kind_of(layer.tensors) == &lora_kind() && layer.kind == lora_kind().name();
  });
  auto* row = row_of(file.base_model);
  return !plain ? "lycoris.kohya" : row ? row->network_module : "networks.lora";
}

}  // namespace

std::map<std::string, std::string> adapter_fields_of(const std::vector<LoraLayer>& layers, const LoraFile& source) {
  std::map<std::string, std::vector<LoraLayer>> components;
  for (const auto& layer : layers) components[layer.component].push_back(layer);
  std::map<std::string, std::string> fields;
  for (const auto& [component, own] : components) {
    auto all = fields_of_source(component, source);
    all.update(json::parse(adapter_fields(component, own)));
    fields[component] = all.dump(2);
  }
  return fields;
}

Metadata diffusers_metadata(const LoraFile& source, const std::vector<LoraLayer>& layers,
                            const std::map<std::string, std::string>& fields) {
  auto metadata = kept(source);
  metadata["format"] = "pt";
  // Alpha = rank is what readers assume. Otherwise every component needs its fields: a reader that finds some of them
  // infers nothing for the rest.
  bool says_alphas = source.metadata.contains(kAdapterMetadata) ||
                     std::any_of(layers.begin(), layers.end(),
                                 [](auto& layer) { return alpha_of(layer) != double(rank_of(layer.tensors)); });
  if (!says_alphas) return metadata;
  json all = json::object();
  for (const auto& [component, text] : fields) all.update(json::parse(prefixed_metadata(text, component)));
  metadata[kAdapterMetadata] = all.dump(2);
  return metadata;
}

Metadata kohya_metadata(const LoraFile& file) {
  auto metadata = kept(file);
  std::vector<int64_t> ranks;
  std::vector<double> alphas;
  for (const auto& layer : file.layers)
    if (kind_of(layer.tensors) == &lora_kind()) {
      ranks.push_back(rank_of(layer.tensors));
      alphas.push_back(alpha_of(layer));
    }
  auto* row = row_of(file.base_model);
  metadata.emplace("ss_network_module", network_module(file));
  if (!ranks.empty()) {
    metadata.emplace("ss_network_dim", std::to_string(most_common(ranks)));
    metadata.emplace("ss_network_alpha", fmt::format("{:g}", most_common(alphas)));
  }
  if (row && !row->version.empty()) metadata.emplace("ss_base_model_version", row->version);
  metadata.emplace("ss_v2", row && row->is_v2 ? "True" : "False");
  return metadata;
}

}  // namespace lora
