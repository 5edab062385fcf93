// save_lora_weights: layers of several components in one file, as diffusers reads it back.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "loaders/metadata.h"
#include "lora/loaders.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

bool has_alphas(const StateDict& layers) {
  return std::any_of(layers.begin(), layers.end(), [](auto& entry) { return entry.first.ends_with(".alpha"); });
}

// diffusers takes alphas from lora_adapter_metadata and refuses `.alpha` tensors beside its own names. Returns the
// component's fields.
nlohmann::json metadata_of(const std::string& component, const StateDict& layers) {
  using nlohmann::json;
  std::map<std::string, double> alphas;
  std::map<std::string, int64_t> ranks;
  bool use_dora = false, lora_bias = false;
  for (const auto& [key, tensor] : layers) {
    auto is = [&](std::string_view suffix) { return key.ends_with(suffix); };
    auto path = [&](std::string_view suffix) { return key.substr(0, key.size() - suffix.size()); };
    if (is(".alpha")) alphas[path(".alpha")] = tensor.to(at::kDouble).item<double>();
    use_dora |= is(".lora_magnitude_vector");
    lora_bias |= is(".lora_B.bias");
    if (is(".lora_A.weight")) ranks[path(".lora_A.weight")] = tensor.size(0);
  }
  // transformers' text encoder has no text_model level any more; diffusers drops it from tensors' names alone. A
  // pattern without an anchor fits both.
  bool text = component.starts_with("text_encoder");
  auto module = [&](const std::string& path) { return text ? replace_all(path, "text_model.", "") : path; };
  auto pattern = [&](const std::string& path) { return (text ? "" : "^") + module(path); };

  auto [first, r] = *ranks.begin();
  double alpha = alphas.contains(first) ? alphas[first] : double(r);
  json rank_pattern = json::object(), alpha_pattern = json::object(), targets = json::array();
  for (const auto& [path, rank] : ranks) {
    double own = alphas.contains(path) ? alphas[path] : double(rank);
    targets.push_back(module(path));
    if (rank != r) rank_pattern[pattern(path)] = rank;
    if (own != alpha) alpha_pattern[pattern(path)] = own;
  }
  auto field = [&](const char* name) { return component + "." + name; };
  // PEFT writes lora_alpha as it was given; whole numbers are what its readers know.
  auto number = [](double x) { return x == double(int64_t(x)) ? json(int64_t(x)) : json(x); };
  for (auto& [path, value] : alpha_pattern.items()) value = number(value.get<double>());
  return {{field("r"), r},
          {field("lora_alpha"), number(alpha)},
          {field("rank_pattern"), rank_pattern},
          {field("alpha_pattern"), alpha_pattern},
          {field("target_modules"), targets},
          {field("use_dora"), use_dora},
          {field("lora_bias"), lora_bias},
          {field("peft_type"), "LORA"}};
}

}  // namespace

bool LoraBaseMixin::saves_safely(const SaveLoraOptions& options) {
  if (options.safe_serialization) return *options.safe_serialization;
  auto* mode = std::getenv("DIFFUSERS_SAVE_MODE");
  if (!mode || !*mode) return true;
  auto name = std::string_view(mode);
  check(name == "safetensors" || name == "pickle", ErrorKind::usage,
        "DIFFUSERS_SAVE_MODE is \"{}\"; \"safetensors\" or \"pickle\" was expected", name);
  return name == "safetensors";
}

void LoraBaseMixin::save(const fs::path& save_directory, const std::map<std::string, StateDict>& layers,
                         const SaveLoraOptions& options) {
  const std::map<std::string, std::string> given_metadata = {
      {"unet", options.unet_lora_adapter_metadata},
      {"transformer", options.transformer_lora_adapter_metadata},
      {"text_encoder", options.text_encoder_lora_adapter_metadata},
      {"text_encoder_2", options.text_encoder_2_lora_adapter_metadata},
  };
  auto metadata_given = [&](const std::string& component) {
    auto it = given_metadata.find(component);
    return it == given_metadata.end() ? std::string() : it->second;
  };
  bool safe = saves_safely(options);
  StateDict file;
  nlohmann::json adapter_metadata = nlohmann::json::object();
  // Where no layer has an alpha of its own, alpha = r is what readers assume. Otherwise every component needs its
  // fields: a reader that finds some of them infers nothing for the rest.
  bool says_alphas = std::any_of(layers.begin(), layers.end(), [&](auto& component) {
    return has_alphas(component.second) || !metadata_given(component.first).empty();
  });
  for (const auto& [component, tensors] : layers) {
    if (tensors.empty()) continue;
    auto metadata = metadata_given(component);
    if (!metadata.empty())
      adapter_metadata.update(nlohmann::json::parse(prefixed_metadata(metadata, component)));
    else if (says_alphas)
      adapter_metadata.update(metadata_of(component, tensors));
    for (const auto& [key, tensor] : tensors)
      if (!key.ends_with(".alpha")) file.set(component + "." + key, tensor);
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
  if (options.save_function) return options.save_function(file, save_directory / name);
  if (!safe) return save_pickle(file, save_directory / name);
  file.metadata["format"] = "pt";
  if (!adapter_metadata.empty()) file.metadata[kAdapterMetadata] = adapter_metadata.dump(2);
  save_safetensors(file, save_directory / name);
}

}  // namespace lora
