// From a source to a LoraFile.
#include "loaders/read_lora.h"

#include <nlohmann/json.hpp>
#include <set>

#include "core/check.h"
#include "dialects/canonical.h"
#include "dialects/dialect.h"
#include "io/mapped_file.h"
#include "io/public_call.h"
#include "kinds/kinds.h"
#include "loaders/locate_lora.h"
#include "loaders/lora_config.h"
#include "loaders/metadata.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

// What a source holds, and PEFT's configs beside it by component; "" for all components of the file.
struct Raw {
  StateDict tensors;
  std::map<std::string, fs::path> configs;
};

Raw read_raw(const FoundLora& file) {
  Raw raw;
  if (file.components.empty()) {
    raw.tensors = load_state_dict(file.path);
    if (auto config = file.path.parent_path() / kAdapterConfig; fs::exists(config)) raw.configs[""] = config;
    return raw;
  }
  for (const auto& component : file.components) {
    raw.configs[component] = file.path / component / kAdapterConfig;
    auto tensors = load_state_dict(locate_lora(LoraSource::file(file.path / component), {}).path);
    for (const auto& [key, tensor] : tensors) raw.tensors.set(component + "." + key, tensor);
  }
  return raw;
}

// PEFT's configs as a file's own metadata would have them.
void add_configs(const std::map<std::string, fs::path>& configs, LoraFile& file) {
  if (file.dialect != "peft") return;
  std::set<std::string> components;
  for (const auto& layer : file.layers) components.insert(layer.component);
  auto all = nlohmann::json::object();
  for (const auto& [of, config] : configs)
    for (const auto& component : of.empty() ? components : std::set{of})
      all.update(nlohmann::json::parse(adapter_config_as_metadata(config, component)));
  if (!all.empty()) file.metadata[kAdapterMetadata] = all.dump();
}

// A strength whose layer has no tensors acts on nothing.
void drop_lone_strengths(LoraFile& file) {
  std::erase_if(file.layers, [&](auto& layer) {
    if (!layer.tensors.empty()) return false;
    for (const auto& [suffix, key] : layer.keys)
      file.unmatched.push_back({key, "the file has no tensors of the layer that it is the strength of"});
    return true;
  });
}

bool is_by_onetrainer(const std::map<std::string, std::string>& metadata) {
  auto first = metadata.lower_bound("ot_");
  return first != metadata.end() && first->first.starts_with("ot_");
}

}  // namespace

void apply_configs(LoraFile& file) {
  std::set<std::string> components, with_alphas;
  bool onetrainer = is_by_onetrainer(file.metadata);
  for (auto& layer : file.layers) {
    components.insert(layer.component);
    if (layer.alpha) with_alphas.insert(layer.component);
    if (onetrainer) layer.settings["inverse_convolutions"] = 1;
  }
  for (const auto& component : components) {
    auto config = config_for(component, file.metadata, file.source);
    if (!config) continue;
    if (with_alphas.contains(component)) {
      file.notes.push_back(fmt::format(
          "{}: the metadata's strengths are not used, because the file's layers have alphas of their own", component));
      continue;
    }
    for (auto& layer : file.layers)
      if (layer.component == component) config->apply(layer);
  }
}

LoraFile read_lora(const LoraSource& source, const ReadLoraOptions& options, const std::string& denoiser) {
  if (auto* given = source.lora_file()) {
    auto file = *given;
    drop_lone_strengths(file);
    for (auto& layer : file.layers) layer.kind = kind_name(layer.tensors);
    return file;
  }
  if (auto* tensors = source.state_dict()) {
    auto file = to_lora_file(*tensors, denoiser, source.label());
    drop_lone_strengths(file);
    apply_configs(file);
    return file;
  }
  auto found = locate_lora(source, options);
  auto raw = read_raw(found);
  auto file = to_lora_file(raw.tensors, denoiser, found.label, mapped_files(raw.tensors));
  file.path = found.path;
  file.notes.insert(file.notes.begin(), found.notes.begin(), found.notes.end());
  drop_lone_strengths(file);
  add_configs(raw.configs, file);
  apply_configs(file);
  return file;
}

LoraFile read_lora(const LoraSource& source, const ReadLoraOptions& options) {
  return public_call([&] { return read_lora(source, options, ""); });
}

LoraStateDict as_state_dict(const LoraFile& file) {
  LoraStateDict view;
  view.state_dict.metadata = file.metadata;
  for (const auto& layer : file.layers) {
    // Strengths of the layer's own: those that the metadata says stay there.
    auto is_own = [&](const char* name) { return layer.keys.empty() || layer.keys.contains(name); };
    auto own = layer;
    if (own.alpha && is_own("alpha")) view.network_alphas[layer.name() + ".alpha"] = *own.alpha;
    own.alpha.reset();
    if (!is_own("scale")) own.scale.reset();
    add_tensors(view.state_dict, layer.name(), own);
  }
  return view;
}

LoraFile lora_file_of(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                      const std::string& prefix, const std::string& component) {
  const bool is_denoiser = component == "unet" || component == "transformer";
  auto path_of = [&](const std::string& key) {
    return key.starts_with(prefix + ".") ? key.substr(prefix.size() + 1) : key;
  };
  StateDict tensors;
  for (const auto& [key, tensor] : state_dict)
    if (key.starts_with(prefix + ".") || (is_denoiser && !key.starts_with("text_encoder")))
      tensors.set(path_of(key), tensor);
  check(!tensors.empty(), ErrorKind::bad_key, "no tensor of the state dict has the prefix \"{}.\"", prefix);
  LoraFile file{.dialect = "diffusers", .source = "state dict", .metadata = state_dict.metadata};
  file.layers = layers_of(tensors, component, file.unmatched);
  std::map<std::string, double> alphas;
  for (const auto& [key, alpha] : network_alphas) alphas[path_of(key)] = alpha;
  for (auto& layer : file.layers)
    if (auto alpha = alphas.find(layer.path + ".alpha"); alpha != alphas.end()) {
      layer.alpha = alpha->second;
      layer.keys["alpha"] = alpha->first;
    }
  drop_lone_strengths(file);
  return file;
}

}  // namespace lora
