#pragma once
// What the behaviour tests share.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>

#include "loaders/tiny_pipeline.h"

namespace lora {

using nlohmann::json;
using Init = CreateAdapterOptions::Init;
using Mixin = StableDiffusionLoraLoaderMixin;
using Names = std::vector<std::string>;
using Listing = std::map<std::string, Names>;
using Weights = std::vector<LoraScale>;

inline const auto kKohya = TinyPipeline::file("kohya.safetensors");
inline const auto kPeft = TinyPipeline::file("peft.safetensors");
inline const auto kUnetOnly = TinyPipeline::file("kohya_unet_only.safetensors");
inline const auto kTextOnly = TinyPipeline::file("kohya_te_only.safetensors");

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

struct Outputs {
  Tensor unet, text;
};

inline Outputs run(const TinyPipeline& pipe) { return {pipe.run("unet"), pipe.run("text_encoder")}; }

inline void expect_same(const Outputs& got, const Outputs& wanted) {
  EXPECT_TRUE(at::equal(got.unet, wanted.unet)) << "unet";
  EXPECT_TRUE(at::equal(got.text, wanted.text)) << "text_encoder";
}

inline void expect_near(const Outputs& got, const Outputs& wanted, double tolerance = 1e-5) {
  expect_close(got.unet, wanted.unet, tolerance);
  expect_close(got.text, wanted.text, tolerance);
}

// Far more than rounding.
inline void expect_differ(const Tensor& a, const Tensor& b) { EXPECT_GT(distance(a, b), 1e-3); }

inline void expect_differ(const Outputs& a, const Outputs& b) {
  expect_differ(a.unet, b.unet);
  expect_differ(a.text, b.text);
}

inline StateDict with_prefix(const std::string& component, const StateDict& layers) {
  StateDict named;
  for (const auto& [key, tensor] : layers) named.set(component + "." + key, tensor);
  return named;
}

inline StateDict joined(StateDict a, const StateDict& b) {
  for (const auto& [key, tensor] : b) a.set(key, tensor);
  return a;
}

template <class Keep>
inline StateDict only(const StateDict& tensors, Keep keep) {
  StateDict kept;
  kept.metadata = tensors.metadata;
  for (const auto& [key, tensor] : tensors)
    if (keep(key)) kept.set(key, tensor);
  return kept;
}

// An adapter that changes something, as tensors in memory.
inline StateDict random_lora(const std::string& component, CreateAdapterOptions options) {
  TinyPipeline pipe;
  options.init_lora_weights = Init::random;
  auto name = pipe.create_adapter(component, options);
  return with_prefix(component, pipe.get_lora_layers(component, name));
}

// An adapter on every layer of the UNet, of rank 2.
inline StateDict everywhere() { return random_lora("unet", {.r = 2, .lora_alpha = 2, .target_modules_regex = ".*"}); }

inline constexpr std::string_view kUp = ".lora_B.weight";

// The same adapter with each layer's strength in its numbers.
template <class WeightOf>
inline StateDict scaled_by_hand(const StateDict& layers, WeightOf weight_of) {
  StateDict scaled;
  for (const auto& [key, tensor] : layers)
    scaled.set(key, key.ends_with(kUp) ? tensor * weight_of(key.substr(0, key.size() - kUp.size())) : tensor);
  return scaled;
}

inline std::vector<Tensor> copies(const StateDict& tensors) {
  std::vector<Tensor> all;
  for (const auto& [name, tensor] : tensors) all.push_back(tensor.clone());
  return all;
}

inline void expect_untouched(const StateDict& tensors, const std::vector<Tensor>& before) {
  size_t i = 0;
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same_bits(tensor, before.at(i++))) << name;
}

// Saves an adapter of both components as the calls give it.
inline void save(const TinyPipeline& pipe, const std::string& name, const std::filesystem::path& folder,
                 const SaveLoraOptions& options = {}) {
  auto list = pipe.get_list_adapters();
  auto layers = [&](const char* component) {
    return list.contains(component) ? pipe.get_lora_layers(component, name) : StateDict();
  };
  Mixin::save_lora_weights(folder, layers("unet"), layers("text_encoder"), options);
}

inline json adapter_metadata(const std::filesystem::path& file) {
  return json::parse(load_state_dict(file).metadata.at("lora_adapter_metadata"));
}

// One component's fields, without its name.
inline std::string fields_of(const json& metadata, const std::string& component) {
  json fields;
  for (const auto& [key, value] : metadata.items())
    if (key.starts_with(component + ".")) fields[key.substr(component.size() + 1)] = value;
  return fields.dump();
}

}  // namespace lora
