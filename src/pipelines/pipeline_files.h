#pragma once
// A pipeline's parts from and to files.
#include <future>
#include <map>
#include <nlohmann/json.hpp>

#include "checkpoints/component_files.h"
#include "lora/pipelines.h"

namespace lora {

enum class PipelineFamily { stable_diffusion, stable_diffusion_xl, stable_diffusion_3, amused };

// Throws Error{unsupported} for a class that is none of ours, with those that are.
PipelineFamily family_of(const std::string& class_name, const std::string& label);

// A scheduler's config, with Python's infinities as texts, which schedulers read as well.
nlohmann::json config_of(const Scheduler& scheduler);

// A diffusers folder, here or in a repository on the Hub, or a single-file checkpoint.
class PipelineFiles {
 public:
  // A repository's files are in the cache then. Throws Error{not_found, bad_file}, as hf_hub_download() does, and,
  // where it is another family's, Error{unsupported}.
  PipelineFiles(std::filesystem::path path, const PipelineOptions& options, std::optional<PipelineFamily> wanted = {});

  PipelineFamily family() const { return family_; }
  // Whether there is such a component: a folder's index may say that there is none.
  bool has(const std::string& component) const;
  // A model, once its class is what the pipeline runs.
  template <class M>
  M model(const std::string& component) const {
    return open<M>(component, model_options());
  }
  // In float32 where its config says that half precision overflows.
  AutoencoderKL vae_in_float32() const;
  // Read on another thread: a vocabulary takes longer than all the weights take to map. `pad_token` is for single
  // files, which have none: the tokenizer is CLIP's own then.
  std::future<CLIPTokenizer> tokenizer(const std::string& component,
                                       const std::string& pad_token = "<|endoftext|>") const;
  T5Tokenizer t5_tokenizer(const std::string& component) const;
  std::unique_ptr<Scheduler> scheduler() const;
  // Of the denoiser's weights, as they are stored.
  Dtype stored_dtype() const;
  // A setting of model_index.json.
  bool flag(const std::string& name, bool fallback) const;

 private:
  std::filesystem::path path_;
  std::string label_;  // for messages
  PipelineOptions options_;
  PipelineFamily family_;
  nlohmann::json index_;                      // of a folder
  std::map<std::string, Checkpoint> single_;  // of a single file
  std::string scheduler_config_;

  bool is_folder() const { return single_.empty(); }
  ModelOptions model_options() const {
    return {.dtype = options_.dtype, .device = options_.device, .variant = options_.variant};
  }
  void check_class(const std::string& component) const;
  std::map<std::string, std::string> models_in_index() const;

  template <class M>
  M open(const std::string& component, const ModelOptions& options) const {
    check_class(component);
    if (is_folder()) return M::from_pretrained(path_ / component, options);
    const auto& [config, tensors, label] = single_.at(component);
    return M::from_state_dict(config, tensors, options, label);
  }
};

// Writes a diffusers folder part by part, its index last, so that a folder that was not written whole is no pipeline.
class PipelineFolder {
 public:
  explicit PipelineFolder(std::filesystem::path folder);

  void add(const std::string& component, const Model& model);
  void add(const std::string& component, const CLIPTokenizer& tokenizer);
  void add(const std::string& component, const T5Tokenizer& tokenizer);
  void add(const Scheduler& scheduler);
  void add_nothing(const std::string& component);
  void set(const std::string& name, bool value) { index_[name] = value; }
  void finish(const std::string& class_name);

 private:
  std::filesystem::path folder_;
  nlohmann::json index_;
};

}  // namespace lora
