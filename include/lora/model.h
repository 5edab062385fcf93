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
// of it: processes and models that open one file share its memory.
//
// A model can be moved into a pipeline, and is neither copied nor assigned: the pipeline's adapters act on this one.
// Any call on a model that was moved from throws Error{usage}. Threads: const calls may run on several threads at once.
// Called alone, a model of a pipeline applies the pipeline's active adapters, and pipeline calls that write weights
// wait for it.
class Model {
 public:
  Model(Model&&) noexcept;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const std::string& class_name() const { return made().class_name; }
  // The config as JSON text.
  const std::string& config() const { return made().config; }
  Dtype dtype() const { return made().dtype; }
  Device device() const { return made().device; }
  // Every tensor under the checkpoint's names, as it is now: with what is fused into it. The tensors are the model's
  // own memory, which fusing writes.
  const StateDict& state_dict() const;
  // The file names that a diffusers folder has for this component: config.json and the weights. Throws Error{io}.
  void save_pretrained(const std::filesystem::path& folder) const;
  // Of a text encoder: the words that loaded files brought, as with_words() of its tokenizer takes them. Inside a call
  // they are that call's.
  std::vector<AddedWord> added_words() const;

 protected:
  struct Made {
    std::string class_name, config;
    Dtype dtype;
    Device device;
    std::shared_ptr<Parts> parts;  // the layers and sites (src/nn)
  };
  explicit Model(Made made);
  ~Model();
  const Parts& parts() const { return *made().parts; }

 private:
  std::unique_ptr<const Made> made_;  // nullptr once moved from

  const Made& made() const;
  // For the library's own code (src/models/parts_of.h).
  friend Parts& parts_of(Model& model);
  friend const Parts& parts_of(const Model& model);
  friend std::shared_ptr<Parts> shared_parts_of(Model& model);
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
  PretrainedModel(Made made, std::shared_ptr<const Impl> impl) : Model(std::move(made)), impl_(std::move(impl)) {}
  const Impl& impl() const;

 private:
  std::shared_ptr<const Impl> impl_;

  static Self make(const std::string& config, ModelLoader& loader, const std::string& label);
};

}  // namespace lora
