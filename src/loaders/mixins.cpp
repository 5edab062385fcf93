// The loaders' mixins: what diffusers calls differently for each model, over the calls that all have in common. Which
// components a model has is its pipeline's to say.
#include <algorithm>

#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "loaders/registry_of.h"
#include "lora/denoisers.h"
#include "lora/loaders.h"
#include "lora/text_encoders.h"

namespace lora {

namespace {

// Throws Error{usage} for layers of a component that is not one of `known`.
void check_components(const LoraLayersByComponent& layers, const std::vector<std::string>& known,
                      const std::string& owner) {
  for (const auto& [name, tensors] : layers)
    check(std::find(known.begin(), known.end(), name) != known.end(), ErrorKind::usage,
          "save_lora_weights: {} does not have the component \"{}\"; it has: {}", owner, name, join(known, ", "));
}

}  // namespace

// ---- Any pipeline ---------------------------------------------------------------------------------------------------

void LoraBaseMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                      const LoraLayersByComponent& lora_layers, const SaveLoraOptions& options) const {
  edge([&] {
    std::vector<std::string> known;
    for (const auto& component : registry_of(*this).components()) known.push_back(component.name);
    check_components(lora_layers, known, "this pipeline");
  });
  save(save_directory, lora_layers, options);
}

// ---- Stable Diffusion -----------------------------------------------------------------------------------------------

LoadReport StableDiffusionLoraLoaderMixin::load_lora_into_unet(const StateDict& state_dict,
                                                               const std::map<std::string, double>& network_alphas,
                                                               UNet2DConditionModel& unet,
                                                               const LoadIntoOptions& options) {
  return load_into(unet, "unet", state_dict, network_alphas, options);
}

void StableDiffusionLoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                                       const StateDict& unet_lora_layers,
                                                       const StateDict& text_encoder_lora_layers,
                                                       const SaveLoraOptions& options) {
  save(save_directory, {{"unet", unet_lora_layers}, {"text_encoder", text_encoder_lora_layers}}, options);
}

void StableDiffusionLoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                                       const LoraLayersByComponent& lora_layers,
                                                       const SaveLoraOptions& options) {
  edge([&] { check_components(lora_layers, {"unet", "text_encoder"}, "a pipeline of Stable Diffusion 1 or 2"); });
  save(save_directory, lora_layers, options);
}

// ---- SDXL -----------------------------------------------------------------------------------------------------------

LoadReport StableDiffusionXLLoraLoaderMixin::load_lora_into_unet(const StateDict& state_dict,
                                                                 const std::map<std::string, double>& network_alphas,
                                                                 UNet2DConditionModel& unet,
                                                                 const LoadIntoOptions& options) {
  return load_into(unet, "unet", state_dict, network_alphas, options);
}

void StableDiffusionXLLoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                                         const StateDict& unet_lora_layers,
                                                         const StateDict& text_encoder_lora_layers,
                                                         const StateDict& text_encoder_2_lora_layers,
                                                         const SaveLoraOptions& options) {
  save(save_directory,
       {{"unet", unet_lora_layers},
        {"text_encoder", text_encoder_lora_layers},
        {"text_encoder_2", text_encoder_2_lora_layers}},
       options);
}

void StableDiffusionXLLoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                                         const LoraLayersByComponent& lora_layers,
                                                         const SaveLoraOptions& options) {
  edge([&] { check_components(lora_layers, {"unet", "text_encoder", "text_encoder_2"}, "a pipeline of SDXL"); });
  save(save_directory, lora_layers, options);
}

// ---- Stable Diffusion 3 ---------------------------------------------------------------------------------------------

LoadReport SD3LoraLoaderMixin::load_lora_into_transformer(const StateDict& state_dict,
                                                          SD3Transformer2DModel& transformer,
                                                          const LoadIntoOptions& options) {
  return load_into(transformer, "transformer", state_dict, {}, options);
}

void SD3LoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                           const StateDict& transformer_lora_layers,
                                           const StateDict& text_encoder_lora_layers,
                                           const StateDict& text_encoder_2_lora_layers,
                                           const SaveLoraOptions& options) {
  save(save_directory,
       {{"transformer", transformer_lora_layers},
        {"text_encoder", text_encoder_lora_layers},
        {"text_encoder_2", text_encoder_2_lora_layers}},
       options);
}

void SD3LoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                           const LoraLayersByComponent& lora_layers, const SaveLoraOptions& options) {
  edge([&] {
    check_components(lora_layers, {"transformer", "text_encoder", "text_encoder_2", "text_encoder_3"},
                     "a pipeline of Stable Diffusion 3");
  });
  save(save_directory, lora_layers, options);
}

// ---- aMUSEd ---------------------------------------------------------------------------------------------------------

LoadReport AmusedLoraLoaderMixin::load_lora_into_transformer(const StateDict& state_dict,
                                                             const std::map<std::string, double>& network_alphas,
                                                             UVit2DModel& transformer, const LoadIntoOptions& options) {
  return load_into(transformer, "transformer", state_dict, network_alphas, options);
}

void AmusedLoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                              const StateDict& text_encoder_lora_layers,
                                              const StateDict& transformer_lora_layers,
                                              const SaveLoraOptions& options) {
  save(save_directory, {{"transformer", transformer_lora_layers}, {"text_encoder", text_encoder_lora_layers}}, options);
}

void AmusedLoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                              const LoraLayersByComponent& lora_layers,
                                              const SaveLoraOptions& options) {
  edge([&] { check_components(lora_layers, {"transformer", "text_encoder"}, "a pipeline of aMUSEd"); });
  save(save_directory, lora_layers, options);
}

}  // namespace lora
