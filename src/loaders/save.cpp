// save_lora_weights: layers of several components in one file, as diffusers reads it back.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "adapters/finite.h"
#include "core/check.h"
#include "io/public_call.h"
#include "loaders/metadata.h"
#include "lora/loaders.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

// Kinds that diffusers' files have no form for: their alphas stay beside them.
bool is_beyond_lora(const StateDict& layers) {
  constexpr std::string_view kLora[] = {".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".lora_magnitude_vector",
                                        ".alpha"};
  return std::any_of(layers.begin(), layers.end(), [&](auto& entry) {
    return std::none_of(std::begin(kLora), std::end(kLora), [&](auto suffix) { return entry.first.ends_with(suffix); });
  });
}

bool has_alphas(const StateDict& layers) {
  return std::any_of(layers.begin(), layers.end(), [](auto& entry) { return entry.first.ends_with(".alpha"); });
}

// Half a pair, and what has no numbers, would be a file that nobody can read.
void check_layers(const StateDict& layers) {
  for (const auto& [key, tensor] : layers) {
    const char* lack = lacks_numbers(tensor);
    check(!lack, ErrorKind::usage, "save_lora_weights: {} is {}; a dense tensor with numbers is wanted", key,
          lack ? lack : "");
    for (auto [own, other] : {std::pair{".lora_A.weight", ".lora_B.weight"}, {".lora_B.weight", ".lora_A.weight"}}) {
      if (!key.ends_with(own)) continue;
      auto partner = key.substr(0, key.size() - std::string_view(own).size()) + other;
      check(layers.contains(partner), ErrorKind::usage, "save_lora_weights: {} is given without {}", key, partner);
    }
  }
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

void write_layers(const fs::path& save_directory, const std::map<std::string, StateDict>& layers,
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
  const bool safe = saves_safely(options);
  StateDict file;
  nlohmann::json adapter_metadata = nlohmann::json::object();
  // Where no layer has an alpha of its own, alpha = r is what readers assume. Otherwise every component needs its
  // fields: a reader that finds some of them infers nothing for the rest.
  bool says_alphas = std::any_of(layers.begin(), layers.end(), [&](auto& component) {
    return has_alphas(component.second) || !metadata_given(component.first).empty();
  });
  bool beyond = std::any_of(layers.begin(), layers.end(), [](auto& c) { return is_beyond_lora(c.second); });
  for (const auto& [component, tensors] : layers) {
    if (tensors.empty()) continue;
    check_layers(tensors);
    // diffusers takes alphas from lora_adapter_metadata and refuses `.alpha` tensors beside its own names.
    auto fields = metadata_given(component);
    if (fields.empty() && says_alphas && !beyond) fields = adapter_fields(component, tensors);
    if (!fields.empty()) adapter_metadata.update(nlohmann::json::parse(prefixed_metadata(fields, component)));
    for (const auto& [key, tensor] : tensors)
      if (beyond || !key.ends_with(".alpha")) file.set(component + "." + key, tensor);
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
  public_call([&] { write_layers(save_directory, layers, options); });
}

}  // namespace lora
