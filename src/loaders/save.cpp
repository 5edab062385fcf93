// save_lora_weights: layers of several components in one file, as diffusers reads it back.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "adapters/finite.h"
#include "core/check.h"
#include "dialects/canonical.h"
#include "io/public_call.h"
#include "kinds/kinds.h"
#include "loaders/adapter_fields.h"
#include "loaders/metadata.h"
#include "lora/loaders.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

using Layers = std::map<std::string, std::vector<LoraLayer>>;  // by component

// Half a pair, and what has no numbers, would be a file that nobody can read.
std::vector<LoraLayer> checked_layers(const StateDict& tensors, const std::string& component) {
  for (const auto& [key, tensor] : tensors) {
    const char* lack = lacks_numbers(tensor);
    check(!lack, ErrorKind::usage, "save_lora_weights: {} is {}; a dense tensor with numbers is wanted", key,
          lack ? lack : "");
  }
  std::vector<LoadReport::Unmatched> unmatched;
  std::vector<LoraLayer> layers;
  try {
    layers = layers_of(tensors, component, unmatched);
  } catch (const Error& error) {
    fail(ErrorKind::usage, "save_lora_weights: {}", error.what());
  }
  check(unmatched.empty(), ErrorKind::usage, "save_lora_weights: {} is not a tensor of an adapter",
        unmatched.empty() ? "" : unmatched.front().key);
  for (const auto& layer : layers) {
    auto missing = missing_of(layer.tensors);
    const auto& given = layer.tensors.empty() ? layer.keys.begin()->first : layer.tensors.begin()->first;
    check(missing.empty(), ErrorKind::usage, "save_lora_weights: {}.{} is given, but {}", layer.path, given, missing);
    for (const auto& [name, strength] : {std::pair{kAlpha, layer.alpha}, {kScale, layer.scale}})
      check(!strength || std::isfinite(*strength), ErrorKind::usage,
            "save_lora_weights: {}.{} is {}; it must be a finite number", layer.path, name, strength.value_or(0));
  }
  return layers;
}

bool any_layer(const Layers& layers, auto condition) {
  return std::any_of(layers.begin(), layers.end(),
                     [&](auto& c) { return std::any_of(c.second.begin(), c.second.end(), condition); });
}

bool saves_safely(const SaveLoraOptions& options) {
  if (options.safe_serialization) return *options.safe_serialization;
  auto* mode = std::getenv("DIFFUSERS_SAVE_MODE");
  if (!mode || !*mode) return true;
  auto name = std::string_view(mode);
  check(name == "safetensors" || name == "pickle", ErrorKind::usage,
        "DIFFUSERS_SAVE_MODE is \"{}\"; \"safetensors\" or \"pickle\" was expected", name);
  return name == "safetensors";
}

void write_layers(const fs::path& save_directory, const Layers& layers, const SaveLoraOptions& options) {
  const std::map<std::string, std::string> given_metadata = {
      {"unet", options.unet_lora_adapter_metadata},
      {"transformer", options.transformer_lora_adapter_metadata},
      {"text_encoder", options.text_encoder_lora_adapter_metadata},
      {"text_encoder_2", options.text_encoder_2_lora_adapter_metadata},
      {"text_encoder_3", options.text_encoder_3_lora_adapter_metadata},
  };
  auto metadata_given = [&](const std::string& component) {
    auto it = given_metadata.find(component);
    return it == given_metadata.end() ? std::string() : it->second;
  };
  const bool safe = saves_safely(options);
  StateDict file;
  nlohmann::json adapter_metadata = nlohmann::json::object();
  // Where no layer has an alpha of its own, alpha = r is what readers assume. Otherwise every component needs its
  // fields: a reader that finds some of them infers nothing for the rest.
  bool says_alphas =
      any_layer(layers, [](auto& layer) { return layer.alpha.has_value(); }) ||
      std::any_of(layers.begin(), layers.end(), [&](auto& c) { return !metadata_given(c.first).empty(); });
  // Kinds that diffusers' files do not have a form for keep their strengths beside them.
  bool beyond = any_layer(layers, [](auto& layer) { return layer.scale || !is_plain_lora(layer); });
  for (const auto& [component, all] : layers) {
    if (all.empty()) continue;
    // diffusers takes alphas from lora_adapter_metadata and refuses `.alpha` tensors beside its own names.
    auto fields = metadata_given(component);
    if (fields.empty() && says_alphas && !beyond) fields = adapter_fields(component, all);
    if (!fields.empty()) adapter_metadata.update(nlohmann::json::parse(prefixed_metadata(fields, component)));
    for (auto layer : all) {
      if (!beyond) layer.alpha.reset();
      add_tensors(file, layer.name(), layer);
    }
  }
  check(!file.empty(), ErrorKind::usage, "save_lora_weights: no layers were given; pass what get_lora_layers returns");
  if (!options.is_main_process) return;
  check(safe || adapter_metadata.empty(), ErrorKind::usage,
        "save_lora_weights: these layers have alphas that only a safetensors file's metadata can say; keep "
        "safe_serialization on");

  std::error_code error;
  check(!fs::exists(save_directory) || fs::is_directory(save_directory), ErrorKind::io,
        "{}: is a file; a folder is wanted", save_directory.string());
  fs::create_directories(save_directory, error);
  check(!error, ErrorKind::io, "{}: the folder cannot be made: {}", save_directory.string(), error.message());
  auto name = options.weight_name;
  if (name.empty()) name = safe ? "pytorch_lora_weights.safetensors" : "pytorch_lora_weights.bin";
  if (options.save_function) return callers([&] { options.save_function(file, save_directory / name); });
  if (!safe) return save_pickle(file, save_directory / name);
  file.metadata["format"] = "pt";
  if (!adapter_metadata.empty()) file.metadata[kAdapterMetadata] = adapter_metadata.dump(2);
  save_safetensors(file, save_directory / name);
}

}  // namespace

void LoraBaseMixin::save(const fs::path& save_directory, const std::map<std::string, StateDict>& layers,
                         const SaveLoraOptions& options) {
  public_call([&] {
    Layers checked;
    for (const auto& [component, tensors] : layers) checked[component] = checked_layers(tensors, component);
    write_layers(save_directory, checked, options);
  });
}

}  // namespace lora
