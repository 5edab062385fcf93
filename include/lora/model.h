#pragma once
// The base of all models of a pipeline.
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
  // The dtype in memory. nullopt chooses it. On CPUs with AVX512-BF16 or AMX it is bfloat16, and on other CPUs float32.
  // On GPUs it is the half type of the file, which is float16 for a float32 file.
  std::optional<Dtype> dtype;
  Device device = at::kCPU;
  // "fp16" reads `<name>.fp16.safetensors`. Without a variant, `<name>.safetensors` must exist. If it does not, the
  // error lists the variants in the folder.
  std::string variant;
};

// A network with the config and the weights of a checkpoint. If a weight keeps the dtype of its file, its memory is a
// mapping of the file. Processes and models that open the same file share this memory.
//
// A model can be moved into a pipeline. It cannot be copied or assigned, because the adapters of a pipeline act on one
// model. Every call on a moved-from model throws Error{usage}.
//
// Threads: const calls may run at the same time on several threads. A model of a pipeline can be called on its own; the
// call applies the pipeline's active adapters. Pipeline calls that write weights wait until the call has ended.
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
  int64_t num_parameters() const;
  // Every tensor under its name in the checkpoint, with everything that is fused into it. The tensors are the model's
  // own memory: fusing changes them. Ends PipelineOptions::low_memory for this model.
  const StateDict& state_dict() const;
  // Writes what a diffusers folder has for this component: config.json and the weights. Replaces an existing folder of
  // a component as DiffusionPipeline::save_pretrained() does. Throws Error{io}.
  void save_pretrained(const std::filesystem::path& folder) const;
  // The words that loaded files added to a text encoder, in the form that Tokenizer::with_words() takes. Inside a
  // pipeline call, these are the words of that call.
  std::vector<AddedWord> added_words() const;
  // What the caller should know of the files: the tensors that the model does not have.
  const std::vector<std::string>& notes() const { return made().notes; }

 protected:
  ~Model();

 private:
  struct Made {
    std::string class_name, config;
    Dtype dtype;
    Device device;
    std::shared_ptr<Parts> parts;  // the layers and sites (src/nn)
    std::vector<std::string> notes;
  };
  std::unique_ptr<const Made> made_;  // nullptr after a move

  explicit Model(Made made);
  const Made& made() const;

  template <class Self>
  friend class PretrainedModel;
  // For the library's own code (src/models/parts_of.h).
  friend Parts& parts_of(Model& model);
  friend const Parts& parts_of(const Model& model);
  friend std::shared_ptr<Parts> shared_parts_of(Model& model);
};

// The functions that make a model. Threads: as for Model.
template <class Self>
class PretrainedModel : public Model {
 public:
  // Opens a folder of diffusers or transformers: config.json with weights as safetensors or .bin, whole or sharded.
  // Throws Error{not_found, bad_file, bad_key, bad_shape}. Throws Error{unsupported} that names the field and the value
  // of a config that the model cannot do. A tensor that the model does not have is a note. It is Error{bad_key} if it
  // belongs to a layer of the model, or to one more of the model's layers or blocks.
  static Self from_pretrained(const std::filesystem::path& folder, const ModelOptions& options = {});
  // Makes a model of tensors that have the names of such a folder. `label` is their origin in error messages.
  static Self from_state_dict(const std::string& config, const StateDict& tensors, const ModelOptions& options = {},
                              const std::string& label = "state dict");
  // Makes a model of the config's shapes with random weights, for tests and benchmarks. The weights are normal with a
  // standard deviation of 0.02; the seed determines them. Without options.dtype they are float32.
  static Self random(const std::string& config, uint64_t seed, const ModelOptions& options = {});

 protected:
  // The layers. The source file of each model defines them.
  struct Impl;
  PretrainedModel(Made made, std::shared_ptr<const Impl> impl) : Model(std::move(made)), impl_(std::move(impl)) {}
  const Impl& impl() const;

 private:
  std::shared_ptr<const Impl> impl_;

  static Self make(const std::string& config, ModelLoader& loader, const std::string& label);
};

}  // namespace lora
