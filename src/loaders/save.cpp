// save_lora_weights: layers of several components in one file, as diffusers reads it back.
#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "loaders/metadata.h"
#include "lora/loaders.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

// diffusers takes alphas from lora_adapter_metadata and refuses `.alpha` tensors beside its own names. Returns the
// component's fields.
nlohmann::json metadata_of(const std::string& component, const StateDict& layers) {
  using nlohmann::json;
  std::map<std::string, double> alphas;
  std::map<std::string, int64_t> ranks;
  for (const auto& [key, tensor] : layers) {
    auto is = [&](std::string_view suffix) { return key.ends_with(suffix); };
    auto path = [&](std::string_view suffix) { return key.substr(0, key.size() - suffix.size()); };
    if (is(".alpha")) alphas[path(".alpha")] = tensor.to(at::kDouble).item<double>();
    if (is(".lora_A.weight")) ranks[path(".lora_A.weight")] = tensor.size(0);
  }
  if (alphas.empty()) return json::object();  // alpha = r everywhere is what readers assume

  auto [first, r] = *ranks.begin();
  double alpha = alphas.contains(first) ? alphas[first] : double(r);
  json rank_pattern = json::object(), alpha_pattern = json::object(), targets = json::array();
  for (const auto& [path, rank] : ranks) {
    double own = alphas.contains(path) ? alphas[path] : double(rank);
    targets.push_back(path);
    if (rank != r) rank_pattern["^" + path] = rank;
    if (own != alpha) alpha_pattern["^" + path] = own;
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
          {field("peft_type"), "LORA"}};
}

}  // namespace

void LoraBaseMixin::save(const fs::path& save_directory, const std::map<std::string, StateDict>& layers,
                         const SaveLoraOptions& options) {
  StateDict file;
  nlohmann::json adapter_metadata = nlohmann::json::object();
  for (const auto& [component, tensors] : layers) {
    adapter_metadata.update(metadata_of(component, tensors));
    for (const auto& [key, tensor] : tensors)
      if (!key.ends_with(".alpha")) file.set(component + "." + key, tensor);
  }
  check(!file.empty(), ErrorKind::usage, "save_lora_weights: no layers were given; pass what get_lora_layers returns");
  if (!options.is_main_process) return;
  check(options.safe_serialization || adapter_metadata.empty(), ErrorKind::usage,
        "save_lora_weights: these layers have alphas that only a safetensors file's metadata can say; keep "
        "safe_serialization on");

  std::error_code error;
  check(!fs::exists(save_directory) || fs::is_directory(save_directory), ErrorKind::io,
        "{}: is a file; a folder is wanted", save_directory.string());
  fs::create_directories(save_directory, error);
  check(!error, ErrorKind::io, "{}: the folder cannot be made: {}", save_directory.string(), error.message());
  auto name = options.weight_name;
  if (name.empty()) name = options.safe_serialization ? "pytorch_lora_weights.safetensors" : "pytorch_lora_weights.bin";
  if (options.save_function) return options.save_function(file, save_directory / name);
  if (!options.safe_serialization) return save_pickle(file, save_directory / name);
  file.metadata["format"] = "pt";
  if (!adapter_metadata.empty()) file.metadata[kAdapterMetadata] = adapter_metadata.dump(2);
  save_safetensors(file, save_directory / name);
}

}  // namespace lora
