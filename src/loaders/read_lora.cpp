// From a source to a LoraFile.
#include "loaders/read_lora.h"

#include <nlohmann/json.hpp>
#include <set>

#include "adapters/finite.h"
#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "dialects/canonical.h"
#include "dialects/dialect.h"
#include "dialects/left_out.h"
#include "dialects/other_files.h"
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

std::map<std::string, fs::path> config_beside(const fs::path& file) {
  auto config = file.parent_path() / kAdapterConfig;
  if (!fs::exists(config)) return {};
  return {{"", config}};
}

Raw read_raw(const FoundLora& file) {
  if (file.components.empty()) return {load_state_dict(file.path), config_beside(file.path)};
  Raw raw;
  for (const auto& component : file.components) {
    raw.configs[component] = file.path / component / kAdapterConfig;
    auto tensors = load_state_dict(locate_lora(LoraSource::file(file.path / component), {}).path);
    for (const auto& [key, tensor] : tensors) raw.tensors.set(component + "." + key, tensor);
  }
  return raw;
}

// PEFT's configs as a file's own metadata would have them. Returns where they stand, for messages.
std::string add_configs(const std::map<std::string, fs::path>& configs, LoraFile& file) {
  if (file.dialect != "peft" || configs.empty()) return kAdapterMetadata;
  std::set<std::string> components;
  for (const auto& layer : file.layers) components.insert(layer.component);
  auto all = nlohmann::json::object();
  for (const auto& [of, config] : configs)
    for (const auto& component : of.empty() ? components : std::set{of})
      all.update(nlohmann::json::parse(adapter_config_as_metadata(config, component)));
  if (!all.empty()) file.metadata[kAdapterMetadata] = all.dump();
  return kAdapterConfig;
}

// A strength whose layer has no tensors acts on nothing. A scale without factors may be a norm's.
void drop_lone_strengths(LoraFile& file) {
  std::erase_if(file.layers, [&](auto& layer) {
    if (!layer.tensors.empty()) return false;
    for (const auto& [suffix, key] : layer.keys)
      file.unmatched.push_back({key, suffix == kScale
                                         ? "a scale without factors, which is not a strength"
                                         : "the file has no tensors of the layer that it is the strength of"});
    return true;
  });
}

// A number that does not count may be anything, such as the alpha of a LoKr whose factors are whole.
void drop_unused_strengths(LoraFile& file) {
  for (auto& layer : file.layers) {
    auto counted = counted_strength(layer);
    for (auto [name, strength] : {std::pair{kAlpha, &layer.alpha}, {kScale, &layer.scale}})
      if (*strength && !CountedStrength{name, **strength}.is_usable() && !(counted && counted->name == name))
        strength->reset();
  }
}

void drop_rank_zero(LoraFile& file) {
  std::map<std::string, std::vector<std::string>> paths;  // by component
  std::erase_if(file.layers, [&](auto& layer) {
    bool empty = std::any_of(layer.tensors.begin(), layer.tensors.end(),
                             [](auto& t) { return t.second.defined() && t.second.numel() == 0; });
    if (empty) paths[layer.component].push_back(layer.path);
    return empty;
  });
  for (const auto& [component, all] : paths)
    file.notes.push_back(
        fmt::format("{}: skipped {} of rank 0: {}", component, counted(all.size(), "layer"), listing(all, 4)));
  check(paths.empty() || !file.layers.empty(), ErrorKind::bad_file,
        "all of its layers are of rank 0, so it would change nothing");
}

void check_left_out(LoraFile& file, PartialLora partial) {
  if (file.left_out.empty()) return;
  std::vector<std::string> keys;
  for (const auto& [key, reason] : file.left_out) keys.push_back(fmt::format("{} ({})", key, reason));
  check(!file.layers.empty(), ErrorKind::bad_key, "no layer of this LoRA is understood: {}", listing(keys, 4));
  check(partial == PartialLora::allow, ErrorKind::bad_key,
        "parts of adapters are not understood ({}), so only a part of the effect could be used: {}. To use the rest "
        "anyway, allow a partial LoRA (--allow-partial, or PartialLora::allow)",
        counted(keys.size(), "key"), listing(keys, 4));
  file.notes.push_back(fmt::format("the effect is not whole: {} not understood, and left out: {}",
                                   counted(keys.size(), "key"), listing(keys, 4)));
}

// What is done with the layers of every source, before their strengths are known. `tensors`: what they were read from,
// for the message where nothing is left.
void check_layers(LoraFile& file, const StateDict* tensors = nullptr) {
  drop_lone_strengths(file);
  if (file.layers.empty() && tensors) fail_without_layers(*tensors, file.source);
  check(!file.layers.empty(), ErrorKind::bad_key, "it has no layers with tensors");
  check_floating_point(file.layers, file.unmatched);
  drop_rank_zero(file);
}

bool is_by_onetrainer(const std::map<std::string, std::string>& metadata) {
  auto first = metadata.lower_bound("ot_");
  return first != metadata.end() && first->first.starts_with("ot_");
}

}  // namespace

void apply_configs(LoraFile& file, const std::string& name) {
  std::set<std::string> components, with_alphas;
  bool onetrainer = is_by_onetrainer(file.metadata);
  for (auto& layer : file.layers) {
    components.insert(layer.component);
    if (layer.keys.contains(kAlpha)) with_alphas.insert(layer.component);
    if (onetrainer) layer.settings["inverse_convolutions"] = 1;
  }
  for (const auto& component : components) {
    auto config = config_for(component, file.metadata, name);
    if (!config) continue;
    if (with_alphas.contains(component)) {
      file.notes.push_back(fmt::format(
          "{}: the metadata's strengths are not used, because the file's layers have alphas of their own", component));
      continue;
    }
    for (auto& layer : file.layers)
      if (layer.component == component) config->apply(layer);
  }
  drop_unused_strengths(file);
}

LoraFile read_lora(const LoraSource& source, const ReadLoraOptions& options, const std::string& denoiser) {
  if (auto* given = source.lora_file()) {
    return named(given->source, [&] {
      auto file = *given;
      if (options.base_model != BaseModel::unknown) file.base_model = options.base_model;
      for (auto& layer : file.layers) layer.kind = kind_name(layer.tensors);
      check_layers(file);
      drop_unused_strengths(file);
      return file;
    });
  }
  if (auto* tensors = source.state_dict()) {
    return named(source.label(), [&] {
      auto file = to_lora_file(*tensors, denoiser, source.label(), {}, options.base_model);
      check_layers(file, tensors);
      check_left_out(file, options.partial);
      apply_configs(file);
      return file;
    });
  }
  auto found = locate_lora(source, options);
  return named(found.label, [&] {
    auto raw = read_raw(found);
    auto file = to_lora_file(raw.tensors, denoiser, found.label, mapped_files(raw.tensors), options.base_model);
    file.path = found.path;
    file.notes.insert(file.notes.begin(), found.notes.begin(), found.notes.end());
    check_layers(file, &raw.tensors);
    check_left_out(file, options.partial);
    apply_configs(file, add_configs(raw.configs, file));
    return file;
  });
}

LoraFile read_lora_sizes(const fs::path& path, const StateDict& sizes) {
  return named(path.string(), [&] {
    auto file = to_lora_file(sizes, "", path.string(), {}, BaseModel::unknown, Content::sizes);
    file.path = path;
    check_layers(file, &sizes);
    check_left_out(file, PartialLora::allow);
    apply_configs(file, add_configs(config_beside(path), file));
    return file;
  });
}

LoraFile read_lora(const LoraSource& source, const ReadLoraOptions& options) {
  return public_call([&] { return read_lora(source, options, ""); });
}

void drop_not_finite(LoraFile& file) {
  StateDict tensors;
  for (const auto& layer : file.layers) add_tensors(tensors, layer.name(), {.tensors = layer.tensors});
  auto mapped = mapped_files(tensors);
  std::vector<std::string> names;
  std::erase_if(file.layers, [&](auto& layer) {
    bool finite = all_finite(layer);
    if (!finite) names.push_back(layer.name());
    for (const auto& each : mapped) each->release_pages();
    return !finite;
  });
  if (names.empty()) return;
  file.notes.push_back(
      fmt::format("skipped {} with NaN or infinity: {}", counted(names.size(), "layer"), listing(names, 4)));
  check(!file.layers.empty(), ErrorKind::bad_file, "{}: all of its layers contain NaN or infinity: {}", file.source,
        listing(names, 4));
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
                      const std::string& prefix, const std::string& component, PartialLora partial) {
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
  file.left_out = parts_of_adapters(file.unmatched, tensors, file.layers);
  check_layers(file);
  check_left_out(file, partial);
  return file;
}

}  // namespace lora
