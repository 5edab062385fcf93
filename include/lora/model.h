#pragma once
// What every component of a pipeline has in common, and the components of Stable Diffusion.
#include <ATen/core/Generator.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lora/state_dict.h"
#include "lora/tensor.h"

namespace lora {

struct Parts;

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
  // The model's layers and sites (src/nn).
  const std::shared_ptr<Parts>& parts() const { return parts_; }

 protected:
  std::string class_name_, config_;
  Dtype dtype_ = Dtype::Float;
  Device device_ = at::kCPU;
  std::shared_ptr<Parts> parts_;
};

struct UNetOptions {
  Tensor text_embeds, time_ids;   // added_cond_kwargs of SDXL: [N, 1280], [N, 6]
  Tensor timestep_cond;           // [N, time_cond_proj_dim]: guidance embedding of distilled models
  Tensor encoder_attention_mask;  // [N, tokens], 1 keeps and 0 discards
};

// diffusers' UNet2DConditionModel: the denoiser of SD 1.x, 2.x and SDXL.
class UNet2DConditionModel : public Model {
 public:
  // A diffusers folder: config.json with safetensors (or .bin) weights, whole or sharded. Throws Error{not_found,
  // bad_file, bad_key, bad_shape}, and Error{unsupported} naming the config field and value that it cannot do.
  static UNet2DConditionModel from_pretrained(const std::filesystem::path& folder, const ModelOptions& options = {});
  // From tensors under diffusers' names; `label` names their origin in messages.
  static UNet2DConditionModel from_state_dict(const std::string& config, const StateDict& tensors,
                                              const ModelOptions& options = {},
                                              const std::string& label = "state dict");
  // Random normal weights (std 0.02, seeded) of the config's shapes, in options.dtype (float32 for none): for tests and
  // benchmarks.
  static UNet2DConditionModel random(const std::string& config, uint64_t seed, const ModelOptions& options = {});

  // sample [N, in_channels, H, W]; timestep: number or [N], any real dtype; encoder_hidden_states [N, tokens,
  // cross_attention_dim]. Returns [N, out_channels, H, W], the predicted noise (or velocity, as the model was trained).
  Tensor operator()(const Tensor& sample, const Tensor& timestep, const Tensor& encoder_hidden_states,
                    const UNetOptions& options = {}) const;

  int64_t in_channels() const;
  int64_t sample_size() const;
  int64_t time_cond_proj_dim() const;  // 0 where the config has none

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

struct CLIPTextOutput {
  Tensor last_hidden_state;           // [N, tokens, hidden], after the final layer norm
  Tensor pooler_output;               // [N, hidden]: at the end token
  Tensor text_embeds;                 // [N, projection_dim] where the model projects, else undefined
  std::vector<Tensor> hidden_states;  // the embeddings, then each layer's output; penultimate is [size - 2]
};

// transformers' CLIPTextModel and, where the config's architectures say so, CLIPTextModelWithProjection. Paths have
// their `text_model.` level whether the file has it or not.
class CLIPTextModel : public Model {
 public:
  static CLIPTextModel from_pretrained(const std::filesystem::path& folder, const ModelOptions& options = {});
  static CLIPTextModel from_state_dict(const std::string& config, const StateDict& tensors,
                                       const ModelOptions& options = {}, const std::string& label = "state dict");
  static CLIPTextModel random(const std::string& config, uint64_t seed, const ModelOptions& options = {});

  // input_ids int64 [N, tokens], tokens at most max_position_embeddings.
  CLIPTextOutput operator()(const Tensor& input_ids) const;

  // hidden_states[-(clip_skip + 1)] with the final layer norm applied: diffusers' clip_skip; last_hidden_state for
  // none.
  Tensor encode(const Tensor& input_ids, std::optional<int> clip_skip = {}) const;

  int64_t hidden_size() const;
  int64_t max_position_embeddings() const;
  int64_t num_hidden_layers() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

struct DiagonalGaussian {
  Tensor mean, logvar;  // [N, latent_channels, h, w]; logvar clamped to [-30, 20]
  Tensor sample(const std::vector<at::Generator>& generators = {}) const;
  const Tensor& mode() const { return mean; }
};

// diffusers' AutoencoderKL.
class AutoencoderKL : public Model {
 public:
  static AutoencoderKL from_pretrained(const std::filesystem::path& folder, const ModelOptions& options = {});
  static AutoencoderKL from_state_dict(const std::string& config, const StateDict& tensors,
                                       const ModelOptions& options = {}, const std::string& label = "state dict");
  static AutoencoderKL random(const std::string& config, uint64_t seed, const ModelOptions& options = {});

  DiagonalGaussian encode(const Tensor& pixels) const;  // [N, 3, H, W] in [-1, 1]
  Tensor decode(const Tensor& latents) const;           // unscaled latents to [N, 3, H, W], about [-1, 1]

  double scaling_factor() const;
  double shift_factor() const;   // 0 where the config has none
  int64_t scale_factor() const;  // pixels per latent along a side: 2^(levels - 1)
  int64_t latent_channels() const;
  bool force_upcast() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace lora
