#pragma once
// diffusers' LoRA loader mixins, under the same names.
//
// Every call either does the whole of what it says, in all components, or throws lora::Error and leaves everything as
// it was. libtorch's thread-local modes of the caller (inference mode, autocast, gradients) do not matter to any call.
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lora/adapters.h"
#include "lora/lora_options.h"
#include "lora/model.h"
#include "lora/state_dict.h"

namespace lora {

class AdapterRegistry;
struct Adapter;
struct AdapterState;
class SD3Transformer2DModel;
class UNet2DConditionModel;
class UVit2DModel;

// The adapters of one pipeline, over all its components.
//
// Threads: any number may call any of these at once, beside calls of the pipeline. Changes happen one after the other.
// A change is seen whole or not at all: by the calls of the pipeline that begin after it, and by every get_… call.
// Calls that write weights (fuse, unfuse; hotswap and delete of what is fused; disable and enable while something is)
// wait for the pipeline's calls that have begun. Pipeline calls that come later wait for them, in the order of arrival.
// From inside a pipeline's call (a step's callback) they throw Error{conflict}; the others may be called there.
//
// A pipeline owns its adapters: it can be moved, not copied.
class LoraBaseMixin {
 public:
  struct Component {
    std::string name;
    const Model* model;
  };

  virtual ~LoraBaseMixin();
  LoraBaseMixin(const LoraBaseMixin&) = delete;
  LoraBaseMixin& operator=(const LoraBaseMixin&) = delete;

  // Loads an adapter into every component that the source has layers for, and makes it the only active one. Embeddings
  // in its file become words that prompts may have for as long as it is loaded, active or not. Throws
  // Error{not_found, bad_file} for the file, as hf_hub_download() does for a repository, Error{bad_key} where it holds
  // no LoRA, half a pair, or nothing that the model has, Error{bad_shape} where it is for another model,
  // Error{unsupported} for other algorithms, Error{conflict} where the name, or a word of its embeddings, is in use.
  LoadReport load_lora_weights(const LoraSource& source, const LoadLoraOptions& options = {});

  // Reads without loading.
  LoraStateDict lora_state_dict(const LoraSource& source, const ReadLoraOptions& options = {}) const;

  // One text encoder's part of load_lora_weights, from what lora_state_dict gives; options.prefix is that of the keys.
  // Throws Error{usage} for a model that is not this pipeline's.
  LoadReport load_lora_into_text_encoder(const StateDict& state_dict,
                                         const std::map<std::string, double>& network_alphas, Model& text_encoder,
                                         const LoadIntoTextEncoderOptions& options = {});

  // What a load of this source would match here, and what not. Changes nothing; throws as the load would.
  LoadReport match_lora(const LoraSource& source, const LoadLoraOptions& options = {}) const;

  // The adapters that apply from now on, and how strongly; one weight for all, one each, or none for 1. Returns
  // remarks, such as that an adapter is fused. Throws Error{not_found} for an unknown name, Error{usage} for a wrong
  // number of weights, one that is not finite, or a block that a component does not have.
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

  // The number of the present snapshot: every call above that changes something adds one, one that throws adds none.
  // StepEnd::lora_snapshot says which snapshot a call of the pipeline runs with.
  uint64_t lora_snapshot() const;

 protected:
  LoraBaseMixin();
  LoraBaseMixin(LoraBaseMixin&&) noexcept;

  // Takes the models that can hold LoRA, the denoiser first: once, at the end of a pipeline's constructor. Throws
  // Error{conflict} for a model that another pipeline has.
  void adapt(const std::vector<std::pair<std::string, Model*>>& components);
  // Throws Error{conflict, usage} where a text encoder's tokenizer cannot have these words beside its own.
  virtual void check_words(const std::string& /*component*/, const std::vector<AddedWord>& /*words*/) const {}

  // One component's part of a load. `prefix` is that of the keys; keys without one are the denoiser's.
  LoadReport load_into(Model& model, const std::string& prefix, const StateDict& state_dict,
                       const std::map<std::string, double>& network_alphas, const LoadIntoOptions& options,
                       double weight = 1);
  // Layers by component.
  static void save(const std::filesystem::path& save_directory, const std::map<std::string, StateDict>& layers,
                   const SaveLoraOptions& options);

 private:
  std::unique_ptr<AdapterRegistry> registry_;

  // The registry, for the library's own code (src/loaders/registry_of.h).
  friend AdapterRegistry& registry_of(LoraBaseMixin& mixin);
  friend const AdapterRegistry& registry_of(const LoraBaseMixin& mixin);
  void check_new_words(const std::vector<std::shared_ptr<const Adapter>>& parts, const AdapterState& state,
                       const std::string& replaced, const std::string& source) const;
};

// Stable Diffusion 1.x and 2.x: unet and text_encoder.
class StableDiffusionLoraLoaderMixin : public virtual LoraBaseMixin {
 public:
  // One component's part of load_lora_weights, from what lora_state_dict gives. Keys may or may not carry the
  // component's name.
  LoadReport load_lora_into_unet(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                                 UNet2DConditionModel& unet, const LoadIntoOptions& options = {});

  // Writes layers (as get_lora_layers gives them) into one file of the folder, made where it is not there. Throws
  // Error{usage} where all are empty, Error{io} where it cannot be written.
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& unet_lora_layers,
                                const StateDict& text_encoder_lora_layers = {}, const SaveLoraOptions& options = {});
};

// SDXL: unet, text_encoder and text_encoder_2.
class StableDiffusionXLLoraLoaderMixin : public virtual LoraBaseMixin {
 public:
  LoadReport load_lora_into_unet(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                                 UNet2DConditionModel& unet, const LoadIntoOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& unet_lora_layers,
                                const StateDict& text_encoder_lora_layers = {},
                                const StateDict& text_encoder_2_lora_layers = {}, const SaveLoraOptions& options = {});
};

// Stable Diffusion 3: transformer, text_encoder, text_encoder_2 and, beyond diffusers, text_encoder_3.
class SD3LoraLoaderMixin : public virtual LoraBaseMixin {
 public:
  LoadReport load_lora_into_transformer(const StateDict& state_dict, SD3Transformer2DModel& transformer,
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
                                        const std::map<std::string, double>& network_alphas, UVit2DModel& transformer,
                                        const LoadIntoOptions& options = {});
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& text_encoder_lora_layers,
                                const StateDict& transformer_lora_layers, const SaveLoraOptions& options = {});
};

}  // namespace lora
