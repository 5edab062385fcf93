#include "files/convert_metadata.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "dialects/base_model_of.h"
#include "kinds/builtin.h"
#include "kinds/kinds.h"
#include "loaders/adapter_fields.h"
#include "loaders/metadata.h"
#include "names/base_model.h"

namespace lora {

using nlohmann::json;

namespace {

using Metadata = std::map<std::string, std::string>;

// kohya's arguments of a training, without the one by which readers take the strengths of q, k and v as those of parts
// that stand in one layer. What is written has the strengths that apply.
void drop_split_qkv(Metadata& metadata) {
  auto entry = metadata.find("ss_network_args");
  if (entry == metadata.end()) return;
  auto arguments = nlohmann::ordered_json::parse(entry->second, nullptr, /*allow_exceptions=*/false);
  if (arguments.is_object() && arguments.erase("split_qkv") > 0) entry->second = arguments.dump();
}

// What the metadata of a file for that model has under a key; "" where nothing is known.
std::string told_by(const BaseModelRow& row, const std::string& key, const std::string& old) {
  if (key == "ss_base_model_version") return std::string(row.version);
  if (key != "modelspec.architecture" || row.spec.empty()) return "";
  auto rest = old.find('/');  // "…/lora"
  return std::string(row.spec) + (rest == old.npos ? "" : old.substr(rest));
}

// A file that names another base model than its own is hidden or refused by the programs that read the entry.
void correct_base_model(Metadata& metadata, const BaseModelRow& row, std::vector<std::string>& notes) {
  for (const char* key : {"ss_base_model_version", "modelspec.architecture"}) {
    auto entry = metadata.find(key);
    if (entry == metadata.end()) continue;
    if (!names_another({model_named_by(entry->second), key, entry->second}, row.model)) continue;
    auto right = told_by(row, key, entry->second);
    notes.push_back(fmt::format("the metadata's {} was {}, which contradicts the layers of {}; it {}", key,
                                entry->second, row.label, right.empty() ? "is left out" : "is now " + right));
    if (right.empty())
      metadata.erase(entry);
    else
      entry->second = right;
  }
  const std::string right = row.is_v2 ? "True" : "False";
  auto v2 = metadata.find("ss_v2");
  if (v2 == metadata.end() || v2->second == right) return;
  notes.push_back(fmt::format("the metadata's ss_v2 was {}, which contradicts the layers of {}; it is now {}",
                              v2->second, row.label, right));
  v2->second = right;
}

// The source's fields of one component, as far as they say nothing of strengths, of another kind, and of weights that
// are not written.
json fields_of_source(const std::string& component, const LoraFile& source) {
  json fields = json::object();
  if (auto text = adapter_fields_for(component, source.metadata); !text.empty()) fields = json::parse(text);
  if (fields.value("peft_type", json("LORA")) != "LORA") return json::object();
  for (const char* gone : {"use_rslora", "modules_to_save"}) fields.erase(gone);
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

Metadata kept_metadata(const LoraFile& source, std::vector<std::string>& notes) {
  auto metadata = source.metadata;
  for (const char* gone : {kAdapterMetadata, "format", "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"})
    metadata.erase(gone);
  drop_split_qkv(metadata);
  if (auto* row = row_of(source.base_model)) correct_base_model(metadata, *row, notes);
  return metadata;
}

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

Metadata diffusers_metadata(Metadata metadata, const LoraFile& source, const std::vector<LoraLayer>& layers,
                            const std::map<std::string, std::string>& fields) {
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

Metadata kohya_metadata(Metadata metadata, const LoraFile& file) {
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
