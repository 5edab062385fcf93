// The loaders' mixins: what diffusers calls differently for each model, over the calls that all have in common. Which
// components a model has is its pipeline's to say.
#include "core/check.h"
#include "lora/denoisers.h"
#include "lora/loaders.h"
#include "lora/text_encoders.h"

namespace lora {

namespace {

// One component's tensors, in any spelling, under its name. Keys without a component's name are the denoiser's.
LoraStateDict of_component(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                           const std::string& prefix, const std::string& component) {
  auto renamed = [&](const std::string& key) {
    auto from = prefix + ".";
    return component + "." + (key.starts_with(from) ? key.substr(from.size()) : key);
  };
  bool is_denoiser = component == "unet" || component == "transformer";
  LoraStateDict lora{.source = "state dict", .dialect = "diffusers"};
  lora.state_dict.metadata = state_dict.metadata;
  for (const auto& [key, tensor] : state_dict)
    if (key.starts_with(prefix + ".") || (is_denoiser && !key.starts_with("text_encoder")))
      lora.state_dict.set(renamed(key), tensor);
  for (const auto& [key, alpha] : network_alphas) lora.network_alphas[renamed(key)] = alpha;
  check(!lora.state_dict.empty(), ErrorKind::bad_key, "no tensor of the state dict has the prefix \"{}.\"", prefix);
  return lora;
}

}  // namespace

LoadReport LoraBaseMixin::load_into_denoiser(const char* component, const StateDict& state_dict,
                                             const std::map<std::string, double>& network_alphas, const Model& model,
                                             const LoadIntoOptions& options) {
  return load_into({component, &model}, of_component(state_dict, network_alphas, component, component), options);
}

LoadReport LoraBaseMixin::load_lora_into_text_encoder(const StateDict& state_dict,
                                                      const std::map<std::string, double>& network_alphas,
                                                      const Model& text_encoder,
                                                      const LoadIntoTextEncoderOptions& options) {
  // The prefix names the component where it is the name of one.
  auto components = lora_components();
  bool known = std::any_of(components.begin(), components.end(), [&](auto& c) { return c.name == options.prefix; });
  auto component = known ? options.prefix : std::string("text_encoder");
  return load_into({component, &text_encoder}, of_component(state_dict, network_alphas, options.prefix, component),
                   options, options.lora_scale);
}

// ---- Stable Diffusion -----------------------------------------------------------------------------------------------

LoadReport StableDiffusionLoraLoaderMixin::load_lora_into_unet(const StateDict& state_dict,
                                                               const std::map<std::string, double>& network_alphas,
                                                               const UNet2DConditionModel& unet,
                                                               const LoadIntoOptions& options) {
  return load_into_denoiser("unet", state_dict, network_alphas, unet, options);
}

void StableDiffusionLoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                                       const StateDict& unet_lora_layers,
                                                       const StateDict& text_encoder_lora_layers,
                                                       const SaveLoraOptions& options) {
  save(save_directory, {{"unet", unet_lora_layers}, {"text_encoder", text_encoder_lora_layers}}, options);
}

// ---- SDXL -----------------------------------------------------------------------------------------------------------

LoadReport StableDiffusionXLLoraLoaderMixin::load_lora_into_unet(const StateDict& state_dict,
                                                                 const std::map<std::string, double>& network_alphas,
                                                                 const UNet2DConditionModel& unet,
                                                                 const LoadIntoOptions& options) {
  return load_into_denoiser("unet", state_dict, network_alphas, unet, options);
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

// ---- Stable Diffusion 3 ---------------------------------------------------------------------------------------------

LoadReport SD3LoraLoaderMixin::load_lora_into_transformer(const StateDict& state_dict,
                                                          const SD3Transformer2DModel& transformer,
                                                          const LoadIntoOptions& options) {
  return load_into_denoiser("transformer", state_dict, {}, transformer, options);
}

void SD3LoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                           const StateDict& transformer_lora_layers,
                                           const StateDict& text_encoder_lora_layers,
                                           const StateDict& text_encoder_2_lora_layers, const SaveLoraOptions& options,
                                           const StateDict& text_encoder_3_lora_layers) {
  save(save_directory,
       {{"transformer", transformer_lora_layers},
        {"text_encoder", text_encoder_lora_layers},
        {"text_encoder_2", text_encoder_2_lora_layers},
        {"text_encoder_3", text_encoder_3_lora_layers}},
       options);
}

// ---- aMUSEd ---------------------------------------------------------------------------------------------------------

LoadReport AmusedLoraLoaderMixin::load_lora_into_transformer(const StateDict& state_dict,
                                                             const std::map<std::string, double>& network_alphas,
                                                             const UVit2DModel& transformer,
                                                             const LoadIntoOptions& options) {
  return load_into_denoiser("transformer", state_dict, network_alphas, transformer, options);
}

void AmusedLoraLoaderMixin::save_lora_weights(const std::filesystem::path& save_directory,
                                              const StateDict& text_encoder_lora_layers,
                                              const StateDict& transformer_lora_layers,
                                              const SaveLoraOptions& options) {
  save(save_directory, {{"transformer", transformer_lora_layers}, {"text_encoder", text_encoder_lora_layers}}, options);
}

}  // namespace lora
