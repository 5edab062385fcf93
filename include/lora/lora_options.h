#pragma once
// Where LoRAs come from, and the keyword arguments of the loaders' calls, under diffusers' names and defaults.
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "lora/adapters.h"
#include "lora/hub.h"
#include "lora/state_dict.h"

namespace lora {

// Where a LoRA comes from: a file, a folder, a repository on the Hugging Face Hub ("owner/name", where no file or
// folder has that name), or tensors in memory (never changed by a load).
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

// The vectors that a word of prompts has in one text encoder, from a file that brings them beside its LoRA.
struct BundledEmbedding {
  std::string word, component;
  std::string key;  // in the file
  Tensor vectors;   // [vectors, dim], or [dim] for one
};

// A file's tensors under canonical names, `<component>.<module path>.<suffix>`, with the alphas apart.
struct LoraStateDict {
  StateDict state_dict;
  std::map<std::string, double> network_alphas;  // `<component>.<module path>.alpha`
  std::string source, dialect;
  std::filesystem::path path;   // what was read: a file, or a folder of PEFT's; none for tensors in memory
  std::string architecture;     // the base model that it is for: "SD 1.x", "SDXL", …; "" where nothing says it
  int64_t cross_attention = 0;  // the width of the text embeddings that it is for, where it says so
  std::vector<BundledEmbedding> embeddings;
  std::vector<LoadReport::Unmatched> unmatched;  // keys of the file that no dialect reads
  std::vector<std::string> notes;
};

struct ReadLoraOptions {
  std::string weight_name;  // the file in the folder; none: the one that is there, `pytorch_lora_weights` first
  std::string subfolder;
  std::optional<bool>
      use_safetensors;  // none: safetensors before pickles; true: safetensors alone; false: pickles alone
  HubOptions hub;       // for repositories
};

struct LoadLoraOptions {
  std::string adapter_name;  // none: default_{i}, i counting up over all components and never reused
  std::string weight_name;
  std::string subfolder;
  std::optional<bool> use_safetensors;
  // Puts the file in the place of the adapter of that name, which keeps its weights, its activity and its place in what
  // is fused; of any ranks and layers. Layers that the new file has not are the base's again.
  bool hotswap = false;
  bool strict = false;            // an unmatched key is an error
  bool low_cpu_mem_usage = true;  // either way nothing is initialised to be overwritten
  HubOptions hub;                 // for repositories; with other sources a note says that it had no effect
};

// One component's part of a load.
struct LoadIntoOptions {
  std::string adapter_name;
  // lora_adapter_metadata for the component, a JSON object: r, lora_alpha, rank_pattern, alpha_pattern, use_rslora, …
  // It replaces what the tensors' shapes say, and excludes network_alphas.
  std::string metadata;
  bool hotswap = false;
  bool low_cpu_mem_usage = true;
};
struct LoadIntoTextEncoderOptions : LoadIntoOptions {
  std::string prefix = "text_encoder";  // of the keys
  double lora_scale = 1.0;              // the adapter's weight
};

struct FuseLoraOptions {
  std::vector<std::string> components;     // none: all that can hold LoRA
  double lora_scale = 1.0;                 // multiplies each adapter's weight
  bool safe_fusing = false;                // check first that no weight becomes NaN or infinite
  std::vector<std::string> adapter_names;  // none: the active ones
};

struct UnfuseLoraOptions {
  std::vector<std::string> components;     // none: all that can hold LoRA
  std::vector<std::string> adapter_names;  // none: all that is fused
};

// PEFT's LoraConfig, for an adapter that is to be trained.
struct CreateAdapterOptions {
  std::string adapter_name;  // none: default_{i}
  int64_t r = 8;
  double lora_alpha = 8;
  // Names of layers: whole paths, or their ends ("to_q", "attn1.to_q"); or one regular expression for the whole path,
  // where `target_modules_regex` is given.
  std::vector<std::string> target_modules;
  std::string target_modules_regex;
  std::vector<std::pair<std::string, int64_t>> rank_pattern;  // regular expression of paths → rank
  std::vector<std::pair<std::string, double>> alpha_pattern;
  enum class Init { standard, gaussian, random };
  // standard (PEFT's true): A Kaiming-uniform, B zero. gaussian: A normal of deviation 1/r, B zero. random (PEFT's
  // false): both Kaiming-uniform, so that the adapter changes something before it is trained.
  Init init_lora_weights = Init::standard;
  bool use_rslora = false, use_dora = false, lora_bias = false;
  uint64_t seed = 0;
};

struct SaveLoraOptions {
  std::string weight_name;  // none: pytorch_lora_weights.safetensors (.bin without safe_serialization)
  // lora_adapter_metadata of the components, JSON objects; none: what the tensors say.
  std::string unet_lora_adapter_metadata, transformer_lora_adapter_metadata;
  std::string text_encoder_lora_adapter_metadata, text_encoder_2_lora_adapter_metadata;
  bool is_main_process = true;  // false writes nothing
  // false writes a pickle that torch.load(weights_only=True) reads. None: what the environment variable
  // DIFFUSERS_SAVE_MODE says ("safetensors" or "pickle"), else true.
  std::optional<bool> safe_serialization;
  // Writes the file in our place, given the tensors and the path; no metadata then.
  std::function<void(const StateDict&, const std::filesystem::path&)> save_function;
};

}  // namespace lora
