#pragma once
// Prompts to images: what all pipelines have in common. lora/pipelines.h has the pipelines.
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lora/autoencoders.h"
#include "lora/call_options.h"
#include "lora/image.h"
#include "lora/loaders.h"
#include "lora/memory.h"
#include "lora/model.h"
#include "lora/scheduler.h"
#include "lora/textual_inversion.h"

namespace lora {

class PipelineFolder;

// The arguments of diffusers' from_pretrained, in its order; `scheduler` is ours.
struct PipelineOptions {
  std::optional<Dtype> dtype;  // without a value: see ModelOptions
  HubOptions hub;              // for repositories on the Hugging Face Hub
  Device device = at::kCPU;
  // "fp16" reads `<name>.fp16.safetensors`. A component without this variant is read without a variant, with a note.
  std::string variant;
  // A scheduler in place of the model's own: a name of Scheduler::names(), or a class name. It reads the config of the
  // model's own scheduler, which may be of a class that is not supported.
  std::string scheduler;
  // A VAE in place of the model's own, which may then be missing. It is a folder with a config.json and weights, or a
  // file with the names of diffusers or of the original publishers. What a file's tensors do not say is as in the
  // model's own VAE, or else as in the family's published one. A VAE of another family is refused: it has another
  // number of latent channels, or another scaling_factor in its config. aMUSEd has no VAE.
  std::filesystem::path vae;
  // Text encoders in place of the model's own, which may then be missing. The names are "text_encoder" or "clip_l",
  // "text_encoder_2" or "clip_g", "text_encoder_3" or "t5xxl". Each is a folder with a config.json and weights, or a
  // file with the names of transformers or of OpenCLIP, such as those for ComfyUI. What a file's tensors do not say is
  // as in the model's own text encoder, or else as in the family's published one. One of another class or shape is
  // refused. For T5, the folder tokenizer_3 must be in the model, beside the checkpoint, or beside the given file or
  // its folder.
  std::map<std::string, std::filesystem::path> text_encoders;
  // What the denoiser predicts, in place of what the files say: "epsilon", "v_prediction" or "sample". Schedulers of SD
  // 3 and aMUSEd do not take it.
  std::string prediction_type;
  // Weights are in memory only while their model works: those of the text encoders leave before the first step, and
  // those of the denoiser before the images are decoded. Weights in the dtype of their file are mapped, and read again
  // by the system. Other weights are converted again. Fused weights stay, and so do weights that are not from a
  // safetensors file or an uncompressed checkpoint. The results are the same. Model::state_dict() brings the weights of
  // its model back for good.
  bool low_memory = false;
};

// Threads: any number of threads may make any calls of one pipeline at once, those of LoraBaseMixin as well. When a
// call begins, it takes one snapshot of the adapters of all components. It keeps the snapshot to its end, and nothing
// writes weights meanwhile. A step's callback may call the pipeline again: that call has the same snapshot. A callback
// must not wait for another thread that calls the same pipeline.
//
// A pipeline can be moved, not copied. Its models belong to it alone. Two pipelines that open one file still share its
// memory, where the dtype is the file's. A call on a pipeline that was moved from throws Error{usage}. An exception of
// the caller's callback leaves the call unchanged; every other exception is a lora::Error.
class DiffusionPipeline : public TextualInversionLoaderMixin {
 public:
  // Opens the pipeline of:
  // - a diffusers folder, whose model_index.json names the pipeline's class;
  // - a single-file checkpoint (.safetensors, .ckpt);
  // - a repository on the Hugging Face Hub, "owner/name". A file or folder of that name comes first. Downloads only the
  //   files that the pipeline needs.
  // Throws Error{not_found, bad_file, bad_key, bad_shape, unsupported}. For a repository it also throws what
  // hf_hub_download() throws.
  static std::unique_ptr<DiffusionPipeline> from_pretrained(const std::filesystem::path& path,
                                                            const PipelineOptions& options = {});

  // Returns the images of the first prompt, then those of the second, and so on. Throws:
  // - Error{usage} for an argument that is out of range, or that this pipeline does not use;
  // - Error{bad_shape} for a tensor that does not fit;
  // - Error{not_found} for an adapter that is not loaded;
  // - Error{cancelled} where the callback returns false;
  // - Error{unsupported} where numbers become NaN or infinite. The message has the step and the likely causes.
  std::vector<Image> operator()(const Prompts& prompt, const CallOptions& options = {}) const;

  // The two halves of a call: the final latents of prompts, and the images of latents. If a half precision cannot hold
  // an image, it is decoded again in float32.
  virtual Tensor generate_latents(const Prompts& prompt, const CallOptions& options = {}) const = 0;
  virtual std::vector<Image> decode_latents(const Tensor& latents) const = 0;

  // What from_pretrained noticed: tensors that no model has, components without the variant, an unknown prediction
  // type.
  std::vector<std::string> notes() const;

  // Writes a diffusers folder of the pipeline as it is now, with the adapters that are fused. It is written beside
  // `folder` and then put in its place, so that a failure or a kill leaves an old folder whole. `folder` may be the
  // one that the pipeline was opened from. In an existing model folder, the weights (in each format and variant),
  // configs and tokenizer files of the written components are replaced, and all other files stay. The layers of fused
  // adapters that stay active (FuseLoraOptions::max_loss) are not in the weights: they are written to
  // unfused_loras/NAME.safetensors, for a load at the weight of the fused adapter. Throws Error{io} for a folder that
  // is not empty and not a model's.
  void save_pretrained(const std::filesystem::path& folder) const;
  // Throws what save_pretrained() throws for a folder that cannot be written. For programs that work for long before
  // they save. Leaves nothing there.
  static void check_save_folder(const std::filesystem::path& folder);

  // Of the pipeline's autoencoder: see AutoencoderKL and VQModel. enable_vae_tiling() throws Error{usage} for aMUSEd,
  // which does not have tiles. Threads: may be called at any time.
  virtual void enable_vae_slicing() = 0;
  virtual void disable_vae_slicing() = 0;
  virtual void enable_vae_tiling(const TilingOptions& options = {}) = 0;
  virtual void disable_vae_tiling() = 0;
  // An estimate of the memory that a call with these options needs. `free` decides whether images would be decoded one
  // by one or in tiles.
  MemoryNeeded memory_needed(const CallOptions& options = {}, double free = free_memory()) const;

  // "StableDiffusionPipeline", …
  virtual const char* class_name() const = 0;
  // The models that can hold LoRA, by their names in model_index.json: the denoiser, then the text encoders.
  virtual std::vector<Component> models() const = 0;
  // The model between pixels and latents or tokens: "vae" or "vqvae".
  virtual Component autoencoder() const = 0;
  Dtype dtype() const { return models().front().model->dtype(); }
  Device device() const { return models().front().model->device(); }

  std::shared_ptr<const Scheduler> scheduler;  // each run clones it
  // A scheduler of another class with the config of `scheduler`, as diffusers' `X.from_config(pipe.scheduler.config)`.
  // `name` is as in PipelineOptions. Throws Error{usage} for an unknown name, and for a class that cannot draw with
  // this pipeline.
  std::unique_ptr<Scheduler> scheduler_named(const std::string& name) const;

 protected:
  // Throws Error{usage} where there is no scheduler.
  explicit DiffusionPipeline(std::shared_ptr<const Scheduler> scheduler);
  // Gives models() to the loaders: call it at the end of the constructor. Throws Error{conflict} where a model belongs
  // to another pipeline.
  void adapt_models();
  // Adds what save_pretrained() does not know: the tokenizers, the components that are missing and the settings.
  virtual void add_to(PipelineFolder& folder) const = 0;

  std::vector<std::string> notes_of_files_;  // the part of notes() that the models do not have
};

// The dtype of the denoiser's weights in the files. Reads a header, no weights. For a repository, downloads what
// from_pretrained downloads.
Dtype stored_dtype(const std::filesystem::path& path, const PipelineOptions& options = {});

}  // namespace lora
