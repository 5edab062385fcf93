#pragma once
// What diffusers' LoRA loader mixins have in common, under the same names.
//
// Every call does the whole of what it says, in all components, or throws lora::Error and changes nothing. The caller's
// thread-local modes of libtorch (inference mode, autocast, gradients) do not matter to any call.
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lora/adapters.h"
#include "lora/fuse_report.h"
#include "lora/lora_options.h"
#include "lora/model.h"
#include "lora/state_dict.h"

namespace lora {

class AdapterRegistry;
struct Adapter;
struct AdapterState;

// The layers of an adapter by component: {{"unet", layers}, {"text_encoder", layers}}, as get_lora_layers() gives them.
using LoraLayersByComponent = std::map<std::string, StateDict>;

// The adapters of one pipeline, over all its components. A pipeline can be moved, not copied. Every call on a pipeline
// that was moved from throws Error{usage}.
//
// Threads: any number of threads may call these at once, beside calls of the pipeline. Changes happen one after the
// other. The calls of the pipeline that begin later and the get_… calls see a change whole or not at all. Some calls
// write weights: fuse and unfuse; hotswap and delete of a fused adapter; enable and disable while one is fused. These
// wait for the pipeline's calls that have begun. Later pipeline calls wait for them, in the order of arrival. Inside a
// call of the pipeline (a step's callback) they throw Error{conflict}. All other calls are allowed there.
class LoraBaseMixin {
 public:
  struct Component {
    std::string name;
    const Model* model;
  };

  virtual ~LoraBaseMixin();
  LoraBaseMixin(const LoraBaseMixin&) = delete;
  LoraBaseMixin& operator=(const LoraBaseMixin&) = delete;

  // ---- Loading ----

  // Loads an adapter into every component that the source has layers for, and makes it the only active one. Embeddings
  // in the file become words that prompts may have, for as long as the adapter is loaded. Throws Error{not_found,
  // bad_file} for the file, for a repository as hf_hub_download() does; Error{bad_key} where the source has no LoRA,
  // half a pair, nothing that the model has, or parts that are not understood (PartialLora); Error{bad_shape} where it
  // is for another model; Error{unsupported} for other algorithms and for quantized files; Error{conflict} where the
  // name, or a word of its embeddings, is in use.
  LoadReport load_lora_weights(const LoraSource& source, const LoadLoraOptions& options = {});
  // Reports what load_lora_weights() would match, and changes nothing. Throws as the load would.
  LoadReport match_lora(const LoraSource& source, const LoadLoraOptions& options = {}) const;
  // Reads a source and loads nothing. Throws as load_lora_weights() does for a source.
  LoraStateDict lora_state_dict(const LoraSource& source, const ReadLoraOptions& options = {}) const;
  // Loads one text encoder's part of what lora_state_dict() gives. Throws as load_lora_weights() does, and Error{usage}
  // for a model of another pipeline.
  LoadReport load_lora_into_text_encoder(const StateDict& state_dict,
                                         const std::map<std::string, double>& network_alphas, Model& text_encoder,
                                         const LoadIntoTextEncoderOptions& options = {});

  // ---- Which adapters act, and how strongly ----

  // Makes the named adapters the active ones, at these weights, and all others inactive. Returns remarks, such as that
  // an adapter is fused. Throws Error{not_found} for an unknown name. Throws Error{usage} for a wrong number of
  // weights, for a weight that is not finite, and for a block that a component does not have.
  // Example:
  //   pipe.set_adapters("ink", 0.7);
  //   pipe.set_adapters({"ink", "neon"}, {0.7, 0.4});
  //   pipe.set_adapters({"ink", "neon"});
  std::vector<std::string> set_adapters(const OneOrMany<std::string>& adapter_names,
                                        const AdapterWeights& adapter_weights = {});
  // The same with each name beside its weight.
  // Example:
  //   pipe.set_adapters({{"ink", 0.7}, {"neon", 0.4}});
  std::vector<std::string> set_adapters(std::initializer_list<std::pair<std::string, LoraScale>> adapters);
  // While adapters are disabled, the pipeline gives the base model's output, whatever is active or fused.
  void enable_lora();
  void disable_lora();
  std::vector<std::string> get_active_adapters() const;                       // active in any component
  std::map<std::string, std::vector<std::string>> get_list_adapters() const;  // loaded, by component, in load order

  // ---- Fusing ----

  // Moves adapters into the weights, at weight × lora_scale. A fused adapter is not applied a second time. Fusing it
  // again replaces what is fused. Returns how much of the change the rounding of the weights loses, and how many
  // numbers became NaN or infinite. Throws Error{usage} for an unknown component, Error{not_found} for an unknown
  // adapter, Error{unsupported} for a bias that a layer cannot hold. With safe_fusing, throws Error{unsupported} with
  // the layers that would hold NaN or infinity, before anything is written.
  FuseReport fuse_lora(const FuseLoraOptions& options = {});
  // What the weights would keep of all fused adapters after fuse_lora() with these options. It reads the weights and
  // changes nothing. Throws as fuse_lora() does.
  FuseReport measure_fuse(const FuseLoraOptions& options = {}) const;
  // Takes adapters out of the weights. The base comes back to the bit, in every dtype. Throws Error{usage} for an
  // unknown component, Error{not_found} for an adapter that is not fused.
  void unfuse_lora(const UnfuseLoraOptions& options = {});
  int num_fused_loras() const;
  std::vector<std::string> fused_loras() const;  // fused in any component

  // ---- Forgetting and moving ----

  // Forgets adapters and their words. Fused ones leave the weights. Throws Error{not_found} for an unknown name.
  void delete_adapters(const OneOrMany<std::string>& adapter_names);
  // Forgets every adapter. What is fused stays in the weights until unfuse_lora().
  void unload_lora_weights();
  // Moves adapters' tensors to a device. A call that needs an adapter on another device than its model throws. Throws
  // Error{not_found} for an unknown name.
  void set_lora_device(const OneOrMany<std::string>& adapter_names, Device device);

  // ---- Layers ----

  // The tensors of an adapter in one component: `<module path>.lora_A.weight` and so on, and `<module path>.alpha`.
  // Throws Error{usage} for an unknown component, Error{not_found} for an unknown adapter.
  StateDict get_lora_layers(const std::string& component, const std::string& adapter_name) const;
  // One adapter that does what several do together at these weights. Its rank is the sum of theirs. Throws also
  // Error{unsupported} for an adapter that plain factors cannot express.
  StateDict get_lora_layers(const std::string& component, const OneOrMany<std::string>& adapter_names,
                            const AdapterWeights& adapter_weights) const;
  // Writes layers into one file of the folder, and creates the folder if needed. Throws Error{usage} for a component
  // that the pipeline does not have and where all layers are empty; Error{io} where the file cannot be written.
  void save_lora_weights(const std::filesystem::path& save_directory, const LoraLayersByComponent& lora_layers,
                         const SaveLoraOptions& options = {}) const;

  // ---- Training ----

  // Creates an adapter on one component and makes it the only active one there. A backward pass reaches its tensors and
  // nothing else. Returns its name. Throws Error{usage} for a rank below 1, and for targets that match no layer;
  // Error{conflict} for a name in use.
  std::string create_adapter(const std::string& component, const CreateAdapterOptions& options);
  // The tensors of an adapter that can be trained, named as by get_lora_layers(). Writing to them changes the adapter.
  // Throws as get_lora_layers() does.
  StateDict trainable_parameters(const std::string& component, const std::string& adapter_name);

  // The number of the present snapshot. Each call that changes something adds one, and one that throws adds none.
  // StepEnd::lora_snapshot says which snapshot a call of the pipeline runs with.
  uint64_t lora_snapshot() const;

 protected:
  LoraBaseMixin();
  LoraBaseMixin(LoraBaseMixin&&) noexcept;

  // Takes the models that can hold LoRA, the denoiser first. A pipeline calls it once, at the end of its constructor.
  // Throws Error{conflict} for a model that another pipeline has.
  void adapt(const std::vector<std::pair<std::string, Model*>>& components);
  // Throws Error{conflict, usage} where a text encoder's tokenizer cannot have these words beside its own.
  virtual void check_words(const std::string& /*component*/, const std::vector<AddedWord>& /*words*/) const {}
  // The same for the words of these parts, by component, beside those of the state. Those of the adapter `replaced` do
  // not count. With `are_no_tokens`, none of the new words may be one token of a vocabulary.
  void check_new_words(const std::vector<std::shared_ptr<const Adapter>>& parts, const AdapterState& state,
                       const std::string& replaced, const std::string& source, bool are_no_tokens = false) const;

  // Loads one component's part. `prefix` is that of the keys. Keys without a prefix belong to the denoiser.
  LoadReport load_into(Model& model, const std::string& prefix, const StateDict& state_dict,
                       const std::map<std::string, double>& network_alphas, const LoadIntoOptions& options,
                       double weight = 1);
  static void save(const std::filesystem::path& save_directory, const LoraLayersByComponent& layers,
                   const SaveLoraOptions& options);

 private:
  std::unique_ptr<AdapterRegistry> registry_;

  // The registry, for the library's own code (src/loaders/registry_of.h).
  friend AdapterRegistry& registry_of(LoraBaseMixin& mixin);
  friend const AdapterRegistry& registry_of(const LoraBaseMixin& mixin);
};

}  // namespace lora
