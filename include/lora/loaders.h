#pragma once
// diffusers' LoRA loader mixins, under the same names. Every call either does the whole of what it says or throws and
// leaves everything as it was.
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "lora/adapters.h"
#include "lora/lora_options.h"
#include "lora/model.h"
#include "lora/state_dict.h"

namespace lora {

struct SiteWeights;
class SD3Transformer2DModel;
class UNet2DConditionModel;
class UVit2DModel;

class LoraBaseMixin {
 public:
  struct Component {
    std::string name;
    const Model* model;
  };

  virtual ~LoraBaseMixin() = default;

  // Loads an adapter into every component that the source has layers for, and makes it the only active one. Embeddings
  // in its file become words that prompts may have for as long as it is loaded, active or not. Throws
  // Error{not_found, bad_file} for the file, as hf_hub_download() does for a repository, Error{bad_key} where it holds
  // no LoRA, half a pair, or nothing that the model has, Error{bad_shape} where it is for another model,
  // Error{unsupported} for other algorithms, Error{conflict} where the name, or a word of its embeddings, is in use.
  LoadReport load_lora_weights(const LoraSource& source, const LoadLoraOptions& options = {});

  // Reads without loading.
  LoraStateDict lora_state_dict(const LoraSource& source, const LoraStateDictOptions& options = {}) const;

  // One text encoder's part of load_lora_weights, from what lora_state_dict gives; options.prefix names it.
  LoadReport load_lora_into_text_encoder(const StateDict& state_dict,
                                         const std::map<std::string, double>& network_alphas, const Model& text_encoder,
                                         const LoadIntoTextEncoderOptions& options = {});

  // What a load of this source would match here, and what not. Changes nothing; throws as the load would.
  LoadReport match_lora(const LoraSource& source, const LoadLoraOptions& options = {}) const;

  // The adapters that apply from now on, and how strongly; one weight for all, one each, or none for 1. Returns
  // remarks, such as that an adapter is fused. Throws Error{not_found} for an unknown name, Error{usage} for a wrong
  // number of weights, one that is not finite, or a block that a component has not.
  std::vector<std::string> set_adapters(const std::vector<std::string>& adapter_names,
                                        const std::vector<LoraScale>& adapter_weights = {});
  void enable_lora();
  void disable_lora();

  // Moves adapters into the weights and back out of them. Restoring is exact in every dtype. A fused adapter is not
  // applied a second time; fusing it again replaces. Throws Error{usage} for an unknown component, Error{not_found} for
  // an unknown adapter; with safe_fusing Error{unsupported} naming the layers, before anything is written.
  void fuse_lora(const FuseLoraOptions& options = {});
  void unfuse_lora(const UnfuseLoraOptions& options = {});
  int num_fused_loras() const;
  std::vector<std::string> fused_loras() const;

  // Forgets adapters everywhere, and the words that they brought. Throws Error{not_found} for a name that is nowhere.
  void delete_adapters(const std::vector<std::string>& adapter_names);
  // Forgets every adapter. What is fused stays in the weights until unfuse_lora().
  void unload_lora_weights();

  std::vector<std::string> get_active_adapters() const;
  std::map<std::string, std::vector<std::string>> get_list_adapters() const;

  // Moves adapters' tensors to another device and back. A run that needs one that is elsewhere is refused.
  void set_lora_device(const std::vector<std::string>& adapter_names, Device device);

  // A loaded adapter's tensors for one component, `<module path>.lora_A.weight` and so on, with `<module path>.alpha`:
  // what the save calls take.
  StateDict get_lora_layers(const std::string& component, const std::string& adapter_name) const;
  // Several in one, weighted: factors of the sum of their ranks that do exactly what those adapters do together. Throws
  // Error{unsupported} for kinds that are no plain product.
  StateDict get_lora_layers(const std::string& component, const std::vector<std::string>& adapter_names,
                            const std::vector<LoraScale>& adapter_weights) const;

  // A fresh adapter on one component, active there alone, its float tensors requiring gradients: a backward pass
  // through the model reaches nothing else. Returns its name. Throws Error{usage} for a rank below 1, or targets that
  // match no layer.
  std::string create_adapter(const std::string& component, const CreateAdapterOptions& options);
  // An adapter's tensors that can be trained, as get_lora_layers names them; writing to them changes the adapter.
  StateDict trainable_parameters(const std::string& component, const std::string& adapter_name) const;

 protected:
  // The components that can hold LoRA, the denoiser first.
  virtual std::vector<Component> lora_components() const = 0;
  // Throws Error{conflict, usage} where a text encoder's tokenizer cannot have these words beside its own.
  virtual void check_words(const std::string& /*component*/, const std::vector<AddedWord>& /*words*/) const {}

  // One component's part of a load.
  LoadReport load_into(const Component& component, const LoraStateDict& lora, const LoadIntoOptions& options,
                       double weight = 1);
  LoadReport load_into_denoiser(const char* component, const StateDict& state_dict,
                                const std::map<std::string, double>& network_alphas, const Model& model,
                                const LoadIntoOptions& options);
  // Layers by component.
  static void save(const std::filesystem::path& save_directory, const std::map<std::string, StateDict>& layers,
                   const SaveLoraOptions& options);
  static bool saves_safely(const SaveLoraOptions& options);
  // Throws Error{not_found} for names that no component has.
  void check_known(const std::vector<std::string>& adapter_names) const;

 private:
  struct Staged;
  int next_default_ = 0;
  std::map<std::string, LoraScale> scales_;  // as set_adapters was given them, for components that an adapter gains

  Component component(const std::string& name) const;
  std::vector<Component> components_or_all(const std::vector<std::string>& names) const;
  // `replaced`: the adapter whose place it is to take, or "".
  Staged stage(const LoraStateDict& lora, const std::vector<Component>& components,
               const std::string& replaced = "") const;
  Staged stage_source(const LoraSource& source, const LoadLoraOptions& options) const;
  std::map<std::string, Tensor> stage_words(const LoraStateDict& lora, const Component& component,
                                            const std::string& replaced, LoadReport& report) const;
  void hotswap(Staged& staged);
  std::string name_for(const std::string& wanted);
  std::vector<SiteWeights> weights_in(const Component& component, const std::vector<LoraScale>& scales) const;
};

// Stable Diffusion 1.x and 2.x: unet and text_encoder.
class StableDiffusionLoraLoaderMixin : public virtual LoraBaseMixin {
 public:
  // One component's part of load_lora_weights, from what lora_state_dict gives. Keys may or may not carry the
  // component's name.
  LoadReport load_lora_into_unet(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                                 const UNet2DConditionModel& unet, const LoadIntoOptions& options = {});

  // Writes layers (as get_lora_layers gives them) into one file of the folder, made where it is not there. Throws
  // Error{usage} where all are empty, Error{io} where it cannot be written.
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& unet_lora_layers,
                                const StateDict& text_encoder_lora_layers = {}, const SaveLoraOptions& options = {});
};

// SDXL: unet, text_encoder and text_encoder_2.
class StableDiffusionXLLoraLoaderMixin : public virtual LoraBaseMixin {
 public:
  LoadReport load_lora_into_unet(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                                 const UNet2DConditionModel& unet, const LoadIntoOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& unet_lora_layers,
                                const StateDict& text_encoder_lora_layers = {},
                                const StateDict& text_encoder_2_lora_layers = {}, const SaveLoraOptions& options = {});
};

// Stable Diffusion 3: transformer, text_encoder, text_encoder_2 and, beyond diffusers, text_encoder_3.
class SD3LoraLoaderMixin : public virtual LoraBaseMixin {
 public:
  LoadReport load_lora_into_transformer(const StateDict& state_dict, const SD3Transformer2DModel& transformer,
                                        const LoadIntoOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& transformer_lora_layers,
                                const StateDict& text_encoder_lora_layers = {},
                                const StateDict& text_encoder_2_lora_layers = {}, const SaveLoraOptions& options = {},
                                const StateDict& text_encoder_3_lora_layers = {});
};

// aMUSEd: transformer and text_encoder.
class AmusedLoraLoaderMixin : public virtual LoraBaseMixin {
 public:
  LoadReport load_lora_into_transformer(const StateDict& state_dict,
                                        const std::map<std::string, double>& network_alphas,
                                        const UVit2DModel& transformer, const LoadIntoOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& text_encoder_lora_layers,
                                const StateDict& transformer_lora_layers, const SaveLoraOptions& options = {});
};

}  // namespace lora
