#pragma once
// Where LoRAs come from, and the keyword arguments of the loaders' calls, under diffusers' names and defaults.
//
// The fields of each struct have the order of diffusers' signature, then that of the keyword arguments in its
// documentation. `hub` holds those from cache_dir to revision. Fields that diffusers does not have come last.
#include <concepts>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "lora/adapters.h"
#include "lora/base_model.h"
#include "lora/hub.h"
#include "lora/one_or_many.h"
#include "lora/state_dict.h"

namespace lora {

struct LoraFile;  // lora/lora_file.h

// Where a LoRA comes from. A text is the path of a file or folder, or the id of a repository on the Hub. It is an id
// where all of this is true, and otherwise a path, for which the Hub is never asked:
//   - it has the form "owner/name"
//   - no file or folder "owner/name" exists here, and no folder "owner"
//   - it does not end as weight files do (".safetensors", ".bin", …)
// file() and repository() say outright what a text is.
// Threads: a value. Const calls on one object may run on several threads at once.
class LoraSource {
 public:
  template <std::convertible_to<std::string_view> Text>
  LoraSource(const Text& text) : source_(std::filesystem::path(std::string_view(text))) {}
  LoraSource(std::filesystem::path text) : source_(std::move(text)) {}
  LoraSource(StateDict tensors) : source_(std::move(tensors)) {}  // in memory; a load does not change them
  LoraSource(LoraFile file);                                      // what read_lora() gave
  // A file or folder, whatever its name.
  static LoraSource file(std::filesystem::path path);
  // A repository, whatever files and folders exist here. Throws Error{usage} for an id that the Hub cannot have.
  static LoraSource repository(std::string_view repo_id);

  // The path or the repository's id; nullptr for tensors.
  const std::filesystem::path* path() const { return std::get_if<std::filesystem::path>(&source_); }
  // The tensors; nullptr for another source.
  const StateDict* state_dict() const { return std::get_if<StateDict>(&source_); }
  // The layers; nullptr for another source.
  const LoraFile* lora_file() const;
  // Whether it is a repository, by the rules above. Looks for the file or folder each time.
  bool is_repository() const;
  std::string label() const;  // for messages: the path, or "state dict"

 private:
  enum class Form { text, file, repository };
  std::variant<std::filesystem::path, StateDict, std::shared_ptr<const LoraFile>> source_;
  Form form_ = Form::text;
};

// The vectors of a word of prompts in one text encoder. A file brings them beside its LoRA.
struct BundledEmbedding {
  std::string word, component;
  std::string key;  // in the file
  Tensor vectors;   // [vectors, dim], or [dim] for one vector
};

// A LoRA's tensors in the form of diffusers' lora_state_dict: canonical names, `<component>.<module path>.<suffix>`,
// with the file's metadata. The alphas are apart.
struct LoraStateDict {
  StateDict state_dict;
  std::map<std::string, double> network_alphas;  // by `<component>.<module path>.alpha`
};

// What happens with a file of which the library understands only a part of the effect: some tensors of adapters have
// unknown names, for example. Layers that the model does not have do not count, nor do keys without an effect.
enum class PartialLora {
  refuse,  // throws Error{bad_key} with the keys; nothing is loaded
  allow,   // uses the rest, and notes what is left out
};

struct ReadLoraOptions {
  HubOptions hub;         // for repositories
  std::string subfolder;  // the folder inside the source
  // The file in the folder. Empty: `pytorch_lora_weights.…`, or else the first file that may be a LoRA, by name. The
  // report notes that there are several.
  std::string weight_name;
  // true: safetensors files only. false: pickles only. None: a pickle where no safetensors file is there.
  std::optional<bool> use_safetensors;
  PartialLora partial = PartialLora::refuse;
  // What the file is for, where its names, sizes and metadata do not tell it. Throws Error{usage} where they contradict
  // it. unknown: the file tells it, or nothing does.
  BaseModel base_model = BaseModel::unknown;
};

struct LoadLoraOptions {
  std::string adapter_name;  // empty: default_{i}; the pipeline counts i up and never uses a number twice
  // Replaces the loaded adapter `adapter_name` by this file. Its weight, whether it is active and whether it is fused
  // do not change. Ranks and layers may differ. Layers that are not in the new file go back to the base weights.
  bool hotswap = false;
  bool low_cpu_mem_usage = true;  // has no effect: a load never initialises a tensor only to overwrite it
  HubOptions hub;         // for repositories; for another source, a note of the report says that it had no effect
  std::string subfolder;  // these three: as in ReadLoraOptions
  std::string weight_name;
  std::optional<bool> use_safetensors;
  bool strict = false;  // throws Error{bad_key} for a key that is not matched
  PartialLora partial = PartialLora::refuse;
};

// For a load into one component.
struct LoadIntoOptions {
  std::string adapter_name;
  bool low_cpu_mem_usage = true;
  bool hotswap = false;
  // The component's part of lora_adapter_metadata, a JSON object: r, lora_alpha, rank_pattern, alpha_pattern,
  // use_rslora, … It says how strong the layers are. Without it, the tensors' shapes and network_alphas do; giving
  // network_alphas as well throws Error{usage}.
  std::string metadata;
  PartialLora partial = PartialLora::refuse;
};
struct LoadIntoTextEncoderOptions {
  std::string prefix = "text_encoder";  // of the keys
  double lora_scale = 1.0;              // the adapter's weight
  std::string adapter_name;             // these five: as in LoadIntoOptions
  bool low_cpu_mem_usage = true;
  bool hotswap = false;
  std::string metadata;
  PartialLora partial = PartialLora::refuse;
};

struct FuseLoraOptions {
  OneOrMany<std::string> components;     // empty: all components that can hold LoRA
  double lora_scale = 1.0;               // multiplies each adapter's weight
  bool safe_fusing = false;              // first checks that no weight becomes NaN or infinite
  OneOrMany<std::string> adapter_names;  // empty: the active adapters
  // From 0 to 1. A layer that would lose more than this share of its change (FuseReport::Layer::lost) is not fused. Its
  // adapters apply as run-time factors in all calls, at the same strengths, until they are unfused. So nothing of the
  // change is lost, but the layer costs the time of an active adapter. None: all layers are fused.
  std::optional<double> max_loss;
};

struct UnfuseLoraOptions {
  OneOrMany<std::string> components;     // empty: all components that can hold LoRA
  bool unfuse_unet = true;               // false: leaves the UNet or transformer as it is, named or not
  bool unfuse_text_encoder = true;       // false: leaves the text encoders as they are, named or not
  OneOrMany<std::string> adapter_names;  // empty: all fused adapters
};

// PEFT's LoraConfig, for an adapter that is to be trained.
struct CreateAdapterOptions {
  std::string adapter_name;  // empty: default_{i}
  int64_t r = 8;
  double lora_alpha = 8;
  // Names of layers: whole paths or their ends ("to_q", "attn1.to_q"). In PEFT one text is a regular expression; here
  // that is target_modules_regex. It must match the whole path, and target_modules has no effect beside it.
  OneOrMany<std::string> target_modules;
  std::string target_modules_regex;
  std::vector<std::pair<std::string, int64_t>> rank_pattern;  // the rank, by a regular expression for the path
  std::vector<std::pair<std::string, double>> alpha_pattern;
  enum class Init { standard, gaussian, random };
  // standard (PEFT's true): A is Kaiming-uniform, B is zero. gaussian: A is normal with the deviation 1/r, B is zero.
  // random (PEFT's false): both are Kaiming-uniform, so that the adapter changes the output before it is trained.
  Init init_lora_weights = Init::standard;
  bool use_rslora = false, use_dora = false, lora_bias = false;
  uint64_t seed = 0;
};

struct SaveLoraOptions {
  bool is_main_process = true;  // false: checks everything and writes nothing
  std::string weight_name;      // empty: pytorch_lora_weights.safetensors (.bin without safe_serialization)
  // Writes the tensors to the path. The call then writes no file itself, and no metadata.
  std::function<void(const StateDict&, const std::filesystem::path&)> save_function;
  // false: a pickle that torch.load(weights_only=True) reads. None: what the environment variable DIFFUSERS_SAVE_MODE
  // says ("safetensors" or "pickle"), and true where it is not set.
  std::optional<bool> safe_serialization;
  // lora_adapter_metadata of each component, a JSON object. Empty: what the tensors say.
  std::string unet_lora_adapter_metadata, transformer_lora_adapter_metadata;
  std::string text_encoder_lora_adapter_metadata, text_encoder_2_lora_adapter_metadata;
  std::string text_encoder_3_lora_adapter_metadata;
};

}  // namespace lora
