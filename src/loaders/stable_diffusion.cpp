#include "core/check.h"
#include "dialects/dialect.h"
#include "lora/denoisers.h"
#include "lora/loaders.h"
#include "lora/text_encoders.h"

namespace lora {

namespace {

// One component's tensors, in any spelling, under `component`.
LoraStateDict of_component(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                           const std::string& prefix, const std::string& component) {
  auto renamed = [&](const std::string& key) {
    auto from = prefix + ".";
    return component + "." + (key.starts_with(from) ? key.substr(from.size()) : key);
  };
  LoraStateDict lora{.source = "state dict", .dialect = "diffusers"};
  lora.state_dict.metadata = state_dict.metadata;
  for (const auto& [key, tensor] : state_dict) {
    auto belongs = key.starts_with(prefix + ".") || (component == "unet" && !key.starts_with("text_encoder"));
    if (belongs) lora.state_dict.set(renamed(key), tensor);
  }
  for (const auto& [key, alpha] : network_alphas) lora.network_alphas[renamed(key)] = alpha;
  check(!lora.state_dict.empty(), ErrorKind::bad_key, "no tensor of the state dict has the prefix \"{}.\"", prefix);
  return lora;
}

}  // namespace

LoadReport StableDiffusionLoraLoaderMixin::load_lora_into_unet(const StateDict& state_dict,
                                                               const std::map<std::string, double>& network_alphas,
                                                               const UNet2DConditionModel& unet,
                                                               const LoadIntoOptions& options) {
  return load_into({"unet", &unet}, of_component(state_dict, network_alphas, "unet", "unet"), options);
}

LoadReport StableDiffusionLoraLoaderMixin::load_lora_into_text_encoder(
    const StateDict& state_dict, const std::map<std::string, double>& network_alphas, const CLIPTextModel& text_encoder,
    const LoadIntoTextEncoderOptions& options) {
  return load_into({"text_encoder", &text_encoder},
                   of_component(state_dict, network_alphas, options.prefix, "text_encoder"), options,
                   options.lora_scale);
}

void StableDiffusionLoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                                       const StateDict& unet_lora_layers,
                                                       const StateDict& text_encoder_lora_layers,
                                                       const SaveLoraOptions& options) {
  save(save_directory,
       {{"unet", {unet_lora_layers, options.unet_lora_adapter_metadata}},
        {"text_encoder", {text_encoder_lora_layers, options.text_encoder_lora_adapter_metadata}}},
       options);
}

}  // namespace lora
