#pragma once
// diffusers' LoRA loader mixins, under the same names: LoraBaseMixin, and the calls that are named by component.
//
// load_lora_into_unet and load_lora_into_transformer load one component's part of what lora_state_dict() gives. Keys
// may begin with the component's name or not. They throw as load_lora_weights() does, and Error{usage} for a model of
// another pipeline. Threads: as LoraBaseMixin.
//
// save_lora_weights writes layers, as get_lora_layers() gives them, into one file of the folder. It creates the folder
// if needed. The layers come in diffusers' order, or by component. It throws Error{usage} where all layers are empty,
// and for a component that this kind of pipeline does not have. It throws Error{io} where the file cannot be written.
// Threads: any number of threads may save at once.
#include "lora/lora_base.h"

namespace lora {

class SD3Transformer2DModel;
class UNet2DConditionModel;
class UVit2DModel;

// Stable Diffusion 1.x and 2.x: unet and text_encoder.
class StableDiffusionLoraLoaderMixin : public virtual LoraBaseMixin {
 public:
  LoadReport load_lora_into_unet(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                                 UNet2DConditionModel& unet, const LoadIntoOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& unet_lora_layers,
                                const StateDict& text_encoder_lora_layers = {}, const SaveLoraOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const LoraLayersByComponent& lora_layers,
                                const SaveLoraOptions& options = {});
};

// SDXL: unet, text_encoder and text_encoder_2.
class StableDiffusionXLLoraLoaderMixin : public virtual LoraBaseMixin {
 public:
  LoadReport load_lora_into_unet(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                                 UNet2DConditionModel& unet, const LoadIntoOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& unet_lora_layers,
                                const StateDict& text_encoder_lora_layers = {},
                                const StateDict& text_encoder_2_lora_layers = {}, const SaveLoraOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const LoraLayersByComponent& lora_layers,
                                const SaveLoraOptions& options = {});
};

// Stable Diffusion 3: transformer, text_encoder and text_encoder_2. Beyond diffusers, text_encoder_3 too.
class SD3LoraLoaderMixin : public virtual LoraBaseMixin {
 public:
  LoadReport load_lora_into_transformer(const StateDict& state_dict, SD3Transformer2DModel& transformer,
                                        const LoadIntoOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& transformer_lora_layers,
                                const StateDict& text_encoder_lora_layers = {},
                                const StateDict& text_encoder_2_lora_layers = {}, const SaveLoraOptions& options = {});
  // Only this form takes layers of text_encoder_3.
  static void save_lora_weights(const std::filesystem::path& save_directory, const LoraLayersByComponent& lora_layers,
                                const SaveLoraOptions& options = {});
};

// aMUSEd: transformer and text_encoder.
class AmusedLoraLoaderMixin : public virtual LoraBaseMixin {
 public:
  LoadReport load_lora_into_transformer(const StateDict& state_dict,
                                        const std::map<std::string, double>& network_alphas, UVit2DModel& transformer,
                                        const LoadIntoOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& text_encoder_lora_layers,
                                const StateDict& transformer_lora_layers = {}, const SaveLoraOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const LoraLayersByComponent& lora_layers,
                                const SaveLoraOptions& options = {});
};

}  // namespace lora
