#pragma once
// What the pipelines over the latents of an AutoencoderKL have in common.
#include "lora/autoencoders.h"
#include "lora/pipeline.h"

namespace lora {

struct PromptTexts;

struct TextEmbeddings {
  Tensor prompt_embeds;  // [prompts, tokens, width]
  Tensor pooled;         // [prompts, width]; undefined for models that do not take it
};

// One loop serves all pipelines over the latents of an AutoencoderKL.
class LatentDiffusionPipeline : public DiffusionPipeline {
 public:
  Tensor generate_latents(const Prompts& prompt, const CallOptions& options = {}) const final;
  std::vector<Image> decode_latents(const Tensor& latents) const final;

  void enable_vae_slicing() final { vae.enable_slicing(); }
  void disable_vae_slicing() final { vae.disable_slicing(); }
  void enable_vae_tiling(const TilingOptions& options = {}) final { vae.enable_tiling(options); }
  void disable_vae_tiling() final { vae.disable_tiling(); }

  Component autoencoder() const final { return {"vae", &vae}; }

  AutoencoderKL vae;

 protected:
  LatentDiffusionPipeline(AutoencoderKL vae, std::shared_ptr<const Scheduler> scheduler);

  // What a run must know of the model, and what each pipeline does in its own way
  // (src/pipelines/latent_diffusion.h).
  struct Traits;
  struct Conditions;
  virtual Traits traits() const = 0;
  virtual TextEmbeddings embed(const PromptTexts& texts) const = 0;
  virtual Tensor predict(const Tensor& input, const Tensor& timestep, const Conditions& conditions,
                         const std::vector<int64_t>& skip_layers = {}) const = 0;
  virtual TextEmbeddings without_negative_prompt(const TextEmbeddings& prompts, const CallOptions& options) const;
  virtual Tensor time_ids(const CallOptions& options, int height, int width, bool negative) const;
  virtual std::optional<double> mu(int64_t image_tokens) const;

 private:
  class Call;
};

}  // namespace lora
