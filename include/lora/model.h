#pragma once
// What every component of a pipeline has in common.
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lora/added_word.h"
#include "lora/state_dict.h"
#include "lora/tensor.h"

namespace lora {

struct Parts;
class ModelLoader;

struct ModelOptions {
  // The dtype in memory. None is "auto": on CPUs with AVX512-BF16 or AMX bfloat16, on other CPUs float32, on GPUs the
  // file's half type (float16 for a float32 file).
  std::optional<Dtype> dtype;
  Device device = at::kCPU;
  // "fp16" reads `<name>.fp16.safetensors`. None given and the plain name absent: an error that lists the variants
  // there.
  std::string variant;
};

// A network with the config and the weights of a checkpoint. Weights that are in the file's own dtype alias a mapping
// of it. Copies share the weights. const calls may run on several threads at once.
class Model {
 public:
  const std::string& class_name() const { return class_name_; }
  // The config as JSON text.
  const std::string& config() const { return config_; }
  Dtype dtype() const { return dtype_; }
  Device device() const { return device_; }
  // Every tensor under the checkpoint's names, as it is now: with what is fused into it.
  const StateDict& state_dict() const;
  // The file names that a diffusers folder has for this component: config.json and the weights. Throws Error{io}.
  void save_pretrained(const std::filesystem::path& folder) const;
  // Of a text encoder: the words that loaded files brought, as with_words() of its tokenizer takes them. Inside a call
  // they are that call's.
  std::vector<AddedWord> added_words() const;
  // The model's layers and sites (src/nn).
  const std::shared_ptr<Parts>& parts() const { return parts_; }

 protected:
  std::string class_name_, config_;
  Dtype dtype_ = Dtype::Float;
  Device device_ = at::kCPU;
  std::shared_ptr<Parts> parts_;
};

// The ways in which every model is made.
template <class Self>
class PretrainedModel : public Model {
 public:
  // A folder of diffusers or transformers: config.json with safetensors (or .bin) weights, whole or sharded. Throws
  // Error{not_found, bad_file, bad_key, bad_shape}, and Error{unsupported} naming the config field and value that the
  // model cannot do.
  static Self from_pretrained(const std::filesystem::path& folder, const ModelOptions& options = {});
  // From tensors under the folder's names; `label` names their origin in messages.
  static Self from_state_dict(const std::string& config, const StateDict& tensors, const ModelOptions& options = {},
                              const std::string& label = "state dict");
  // Random normal weights (std 0.02, seeded) of the config's shapes, in options.dtype (float32 for none): for tests and
  // benchmarks.
  static Self random(const std::string& config, uint64_t seed, const ModelOptions& options = {});

 protected:
  // The layers: each model's source file has them.
  struct Impl;
  std::shared_ptr<const Impl> impl_;

 private:
  static Self make(const std::string& config, ModelLoader& loader, const std::string& label);
};

}  // namespace lora
