#include "files/convert_metadata.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "loaders/metadata.h"

namespace lora {

using nlohmann::json;

namespace {

using Metadata = std::map<std::string, std::string>;

// Without what is about the old file's form or bytes.
Metadata kept(const LoraStateDict& source) {
  auto metadata = source.state_dict.metadata;
  for (const char* gone : {kAdapterMetadata, "format", "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"})
    metadata.erase(gone);
  return metadata;
}

double alpha_of(const NamedModule& layer, double rank) {
  auto value = [&](const char* suffix) { return layer.tensors.at(suffix).to(at::kDouble).item<double>(); };
  if (layer.tensors.contains("scale")) return value("scale") * rank;
  return layer.tensors.contains("alpha") ? value("alpha") : rank;
}

// `<path>.lora_A.weight` and so on with `<path>.alpha`, by component.
std::map<std::string, StateDict> by_component(const std::vector<NamedModule>& layers) {
  std::map<std::string, StateDict> components;
  for (const auto& layer : layers) {
    auto& tensors = components[layer.component];
    for (const auto& [suffix, tensor] : layer.tensors) {
      bool magnitude = suffix == "dora_scale", bias = suffix == "diff_b";
      if (suffix == "alpha" || suffix == "scale") continue;
      tensors.set(layer.path + "." + (magnitude ? "lora_magnitude_vector" : bias ? "lora_B.bias" : suffix), tensor);
    }
    if (auto A = layer.tensors.find("lora_A.weight"); A != layer.tensors.end())
      tensors.set(layer.path + ".alpha", at::scalar_tensor(alpha_of(layer, double(A->second.size(0))), at::kDouble));
  }
  return components;
}

// The source's fields of one component, as far as they say nothing of strengths.
json fields_of_source(const std::string& component, const LoraStateDict& source) {
  json fields = json::object();
  auto entry = source.state_dict.metadata.find(kAdapterMetadata);
  if (entry == source.state_dict.metadata.end()) return fields;
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

std::string network_module(const std::vector<NamedModule>& layers, const std::string& family) {
  bool plain = std::all_of(layers.begin(), layers.end(), [](auto& layer) { return kind_of(layer) == "LoRA"; });
  if (!plain) return "lycoris.kohya";
  return family == "SD 3" ? "networks.lora_sd3" : family == "Flux" ? "networks.lora_flux" : "networks.lora";
}

std::string base_model_version(const std::string& family) {
  if (family == "SD 1.x") return "sd_v1";
  if (family == "SD 2.x") return "sd_v2";
  if (family == "SDXL") return "sdxl_base_v1-0";
  return family == "Flux" ? "flux1" : "";
}

}  // namespace

std::map<std::string, std::string> adapter_fields_of(const std::vector<NamedModule>& layers,
                                                     const LoraStateDict& source) {
  std::map<std::string, std::string> fields;
  for (const auto& [component, tensors] : by_component(layers)) {
    auto all = fields_of_source(component, source);
    all.update(json::parse(adapter_fields(component, tensors)));
    fields[component] = all.dump(2);
  }
  return fields;
}

Metadata diffusers_metadata(const LoraStateDict& source, const std::vector<NamedModule>& layers,
                            const std::map<std::string, std::string>& fields) {
  auto metadata = kept(source);
  metadata["format"] = "pt";
  // Alpha = rank is what readers assume. Otherwise every component needs its fields: a reader that finds some of them
  // infers nothing for the rest.
  bool says_alphas = source.state_dict.metadata.contains(kAdapterMetadata) ||
                     std::any_of(layers.begin(), layers.end(), [](auto& layer) {
                       auto A = layer.tensors.find("lora_A.weight");
                       auto rank = A == layer.tensors.end() ? 0.0 : double(A->second.size(0));
                       return alpha_of(layer, rank) != rank;
                     });
  if (!says_alphas) return metadata;
  json all = json::object();
  for (const auto& [component, text] : fields) all.update(json::parse(prefixed_metadata(text, component)));
  metadata[kAdapterMetadata] = all.dump(2);
  return metadata;
}

Metadata kohya_metadata(const LoraLayers& read) {
  auto metadata = kept(read.file);
  const auto& family = read.file.architecture;
  std::vector<int64_t> ranks;
  std::vector<double> alphas;
  for (const auto& layer : read.layers)
    if (auto A = layer.tensors.find("lora_A.weight"); A != layer.tensors.end()) {
      ranks.push_back(A->second.size(0));
      alphas.push_back(alpha_of(layer, double(ranks.back())));
    }
  metadata.emplace("ss_network_module", network_module(read.layers, family));
  if (!ranks.empty()) {
    metadata.emplace("ss_network_dim", std::to_string(most_common(ranks)));
    metadata.emplace("ss_network_alpha", fmt::format("{:g}", most_common(alphas)));
  }
  if (auto version = base_model_version(family); !version.empty()) metadata.emplace("ss_base_model_version", version);
  metadata.emplace("ss_v2", family == "SD 2.x" ? "True" : "False");
  return metadata;
}

}  // namespace lora
