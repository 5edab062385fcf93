#pragma once
// diffusers' LoRA loader mixins, under the same names. Every call either does the whole of what it says or throws and
// leaves everything as it was.
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "lora/adapters.h"
#include "lora/model.h"
#include "lora/state_dict.h"

namespace lora {

// Where a LoRA comes from: a file, a folder, or tensors in memory (never changed by a load).
class LoraSource {
 public:
  LoraSource(const char* path) : source_(std::filesystem::path(path)) {}
  LoraSource(const std::string& path) : source_(std::filesystem::path(path)) {}
  LoraSource(std::filesystem::path path) : source_(std::move(path)) {}
  LoraSource(StateDict tensors) : source_(std::move(tensors)) {}

  const std::filesystem::path* path() const { return std::get_if<std::filesystem::path>(&source_); }
  const StateDict* state_dict() const { return std::get_if<StateDict>(&source_); }
  std::string label() const { return path() ? path()->string() : "state dict"; }

 private:
  std::variant<std::filesystem::path, StateDict> source_;
};

// A file's tensors under canonical names, `<component>.<module path>.<suffix>`, with the alphas apart.
struct LoraStateDict {
  StateDict state_dict;
  std::map<std::string, double> network_alphas;  // `<component>.<module path>.alpha`
  std::string source, dialect;
  std::string architecture;     // the base model that it is for: "SD 1.x", "SDXL", …; "" where nothing says it
  int64_t cross_attention = 0;  // the width of the text embeddings that it is for, where it says so
  std::vector<LoadReport::Unmatched> unmatched;  // keys of the file that no dialect reads
  std::vector<std::string> notes;
};

struct LoraStateDictOptions {
  std::string weight_name;  // the file in the folder; none: the one that is there, `pytorch_lora_weights` first
  std::string subfolder;
  std::optional<bool>
      use_safetensors;  // none: safetensors before pickles; true: safetensors alone; false: pickles alone
};

struct LoadLoraOptions {
  std::string adapter_name;  // none: default_{i}, i counting up over all components and never reused
  std::string weight_name;
  std::string subfolder;
  std::optional<bool> use_safetensors;
};

struct FuseLoraOptions {
  std::vector<std::string> components;     // none: all that can hold LoRA
  double lora_scale = 1.0;                 // multiplies each adapter's weight
  bool safe_fusing = false;                // check first that no weight becomes NaN or infinite
  std::vector<std::string> adapter_names;  // none: the active ones
};

struct SaveLoraOptions {
  std::string weight_name;         // none: pytorch_lora_weights.safetensors (.bin without safe_serialization)
  bool is_main_process = true;     // false writes nothing
  bool safe_serialization = true;  // false writes a pickle that torch.load(weights_only=True) reads
  // Writes the file in our place, given the tensors and the path; no metadata then.
  std::function<void(const StateDict&, const std::filesystem::path&)> save_function;
};

class LoraBaseMixin {
 public:
  virtual ~LoraBaseMixin() = default;

  // Loads an adapter into every component that the source has layers for, and makes it the only active one. Throws
  // Error{not_found, bad_file} for the file, Error{bad_key} where it holds no LoRA, half a pair, or nothing that the
  // model has, Error{bad_shape} where it is for another model, Error{unsupported} for other algorithms, Error{conflict}
  // where the name is in use.
  LoadReport load_lora_weights(const LoraSource& source, const LoadLoraOptions& options = {});

  // Reads without loading.
  LoraStateDict lora_state_dict(const LoraSource& source, const LoraStateDictOptions& options = {}) const;

  // What a load of this source would match here, and what not. Changes nothing; throws as the load would.
  LoadReport match_lora(const LoraSource& source, const LoadLoraOptions& options = {}) const;

  // The adapters that apply from now on, and how strongly; one weight for all, one each, or none for 1. Returns
  // remarks, such as that an adapter is fused. Throws Error{not_found} for an unknown name, Error{usage} for a wrong
  // number of weights or one that is not finite.
  std::vector<std::string> set_adapters(const std::vector<std::string>& adapter_names,
                                        const std::vector<double>& adapter_weights = {});
  void enable_lora();
  void disable_lora();

  // Moves adapters into the weights and back out of them. Restoring is exact in every dtype. A fused adapter is not
  // applied a second time; fusing it again replaces. Throws Error{usage} for an unknown component, Error{not_found} for
  // an unknown adapter; with safe_fusing Error{unsupported} naming the layers, before anything is written.
  void fuse_lora(const FuseLoraOptions& options = {});
  void unfuse_lora(const std::vector<std::string>& components = {});
  int num_fused_loras() const;
  std::vector<std::string> fused_loras() const;

  // Forgets adapters everywhere. Throws Error{not_found} for a name that is nowhere.
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

 protected:
  struct Component {
    std::string name;
    const Model* model;
  };
  // The components that can hold LoRA, the denoiser first.
  virtual std::vector<Component> lora_components() const = 0;

  // One component's part of a load.
  LoadReport load_into(const Component& component, const LoraStateDict& lora, const std::string& adapter_name);
  static void save(const std::filesystem::path& save_directory, const std::map<std::string, StateDict>& layers,
                   const SaveLoraOptions& options);

 private:
  struct Staged;
  int next_default_ = 0;

  Component component(const std::string& name) const;
  Staged stage(const LoraStateDict& lora, const std::vector<Component>& components) const;
  std::string name_for(const std::string& wanted);
  void check_known(const std::vector<std::string>& adapter_names) const;
};

// Stable Diffusion 1.x and 2.x: unet and text_encoder.
class StableDiffusionLoraLoaderMixin : public LoraBaseMixin {
 public:
  // One component's part of load_lora_weights, from what lora_state_dict gives. Keys may or may not carry the
  // component's name.
  LoadReport load_lora_into_unet(const StateDict& state_dict, const std::map<std::string, double>& network_alphas,
                                 const UNet2DConditionModel& unet, const std::string& adapter_name = "");
  // `prefix` names the text encoder's keys; lora_scale multiplies the adapter's effect.
  struct TextEncoderOptions {
    std::string prefix = "text_encoder";
    double lora_scale = 1.0;
    std::string adapter_name;
  };
  LoadReport load_lora_into_text_encoder(const StateDict& state_dict,
                                         const std::map<std::string, double>& network_alphas,
                                         const CLIPTextModel& text_encoder, const TextEncoderOptions& options);

  // Writes layers (as get_lora_layers gives them) into one file of the folder, made where it is not there. Throws
  // Error{usage} where both are empty, Error{io} where it cannot be written.
  static void save_lora_weights(const std::filesystem::path& save_directory, const StateDict& unet_lora_layers,
                                const StateDict& text_encoder_lora_layers = {}, const SaveLoraOptions& options = {});
};

}  // namespace lora
