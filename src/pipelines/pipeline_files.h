#pragma once
// The files of a pipeline: opening them and writing them.
#include <future>
#include <map>
#include <nlohmann/json.hpp>

#include "checkpoints/component_files.h"
#include "io/atomic_folder.h"
#include "lora/pipelines.h"
#include "models/parts_of.h"
#include "names/base_model.h"
#include "nn/weights.h"

namespace lora {

// A diffusers folder, a repository on the Hub, or a single-file checkpoint.
class PipelineFiles {
 public:
  // Downloads what a repository lacks in the cache. `wanted` is the class that the caller opens; "": any class. Throws
  // Error{not_found, bad_file}, what hf_hub_download() throws, and Error{unsupported} for another class than `wanted`,
  // or one that no pipeline here runs.
  PipelineFiles(std::filesystem::path path, const PipelineOptions& options, std::string_view wanted = "");

  // "StableDiffusionPipeline" for image-to-image and inpainting as well.
  std::string_view pipeline_class() const { return row_->pipeline; }
  // False for a component that the index lists as missing, or that the single file does not have.
  bool has(const std::string& component) const;
  // Opens a model. Throws Error{bad_file} where the component is missing, Error{unsupported} where it has another
  // class.
  template <class M>
  M model(const std::string& component) const {
    return open<M>(component, model_options(component));
  }
  // The same, or nothing where the component is missing.
  template <class M>
  std::optional<M> optional_model(const std::string& component) const {
    return has(component) ? std::optional<M>(model<M>(component)) : std::nullopt;
  }
  // Opens the VAE, in float32 where its config says that half precision overflows.
  AutoencoderKL vae_in_float32() const;
  // Opens a tokenizer on another thread, as reading a vocabulary takes longer than mapping all weights. A single file
  // has no tokenizers: it gets CLIP's own with `pad_token`.
  std::future<CLIPTokenizer> tokenizer(const std::string& component,
                                       const std::string& pad_token = "<|endoftext|>") const;
  T5Tokenizer t5_tokenizer(const std::string& component) const;
  std::unique_ptr<Scheduler> scheduler() const;
  // The dtype of the denoiser's weights in the files.
  Dtype stored_dtype() const;
  // A setting of model_index.json.
  bool flag(const std::string& name, bool fallback) const;
  // What the caller should know of the files.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  std::filesystem::path path_;
  std::string label_;  // for messages
  PipelineOptions options_;
  const BaseModelRow* row_;
  bool is_folder_ = true;                               // not a single file
  nlohmann::json index_;                                // of a folder
  std::map<std::string, Checkpoint> components_;        // those of a single file, and those that the caller gives
  std::map<std::string, std::filesystem::path> given_;  // the text encoders that the caller gives, by component
  std::string scheduler_config_;                        // of a single file
  std::map<std::string, std::string> variants_;         // by component, where options_.variant is given
  std::vector<std::string> notes_;

  std::string variant_of(const std::string& component) const {
    auto found = variants_.find(component);
    return found == variants_.end() ? "" : found->second;
  }
  ModelOptions model_options(const std::string& component) const {
    return {.dtype = options_.dtype, .device = options_.device, .variant = variant_of(component)};
  }
  // Chooses the variant of each component. `names_in` gives the names of a component's files.
  template <class NamesIn>
  void choose_variants(NamesIn names_in);
  // Opens the VAE that replaces the model's.
  void open_given_vae();
  // The places of the text encoders that replace the model's.
  std::map<std::string, std::filesystem::path> given_text_encoders() const;
  void open_given_text_encoders();
  bool is_given(const std::string& component) const {
    return given_.contains(component) || (component == "vae" && !options_.vae.empty());
  }
  // The config of a component; null where the model does not have its file.
  nlohmann::json component_config(const std::string& component) const;
  nlohmann::json own_scheduler_config() const;
  // Reads the index or the single file, and returns the pipeline's class.
  std::string read();
  void check_class(const std::string& component) const;
  std::map<std::string, std::string> models_in_index() const;

  template <class M>
  M open(const std::string& component, const ModelOptions& options) const {
    check_class(component);
    auto found = components_.find(component);
    auto model = found == components_.end()
                     ? M::from_pretrained(path_ / component, options)
                     : M::from_state_dict(found->second.config, found->second.tensors, options, found->second.label);
    if (options_.low_memory) let_weights_leave(parts_of(model));
    return model;
  }
};

// Writes a diffusers folder, one component after the other, as AtomicFolder does: nobody sees a part of it. In an
// existing model folder, it replaces the files of the components that it writes. All other files stay.
class PipelineFolder {
 public:
  explicit PipelineFolder(const std::filesystem::path& folder);

  // The folder to write more files to.
  const std::filesystem::path& path() const { return out_.path(); }

  void add(const std::string& component, const Model& model);
  void add(const std::string& component, const CLIPTokenizer& tokenizer);
  void add(const std::string& component, const T5Tokenizer& tokenizer);
  template <class T>
  void add(const std::string& component, const std::optional<T>& tokenizer) {
    tokenizer ? add(component, *tokenizer) : add_missing({component});
  }
  void add(const Scheduler& scheduler);
  // Lists components in the index that the pipeline does not have.
  void add_missing(std::initializer_list<std::string> components);
  // Sets a field of the index.
  void set(const std::string& name, const nlohmann::json& value) { index_[name] = value; }
  // Writes the index, and puts the folder in its place.
  void finish();

 private:
  AtomicFolder out_;
  nlohmann::json index_;
};

}  // namespace lora
