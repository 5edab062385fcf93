#pragma once
// diffusers' pipelines, under its names. For image-to-image, give a call an image. For inpainting, add a mask.
#include "lora/denoisers.h"
#include "lora/latent_diffusion.h"
#include "lora/t5_tokenizer.h"
#include "lora/text_encoders.h"
#include "lora/tokenizer.h"

namespace lora {

class PipelineFiles;

// SD 1.x and 2.x.
class StableDiffusionPipeline : public LatentDiffusionPipeline, public StableDiffusionLoraLoaderMixin {
 public:
  // The arguments of diffusers' constructor.
  struct Components {
    AutoencoderKL vae;
    CLIPTextModel text_encoder;
    CLIPTokenizer tokenizer;
    UNet2DConditionModel unet;
    std::shared_ptr<const Scheduler> scheduler;
  };
  // Throws Error{conflict} where a model belongs to another pipeline, Error{usage} where there is no scheduler.
  explicit StableDiffusionPipeline(Components components);
  // Throws as DiffusionPipeline::from_pretrained does, and Error{unsupported} for a model of another pipeline.
  static StableDiffusionPipeline from_pretrained(const std::filesystem::path& path,
                                                 const PipelineOptions& options = {});

  // Returns [prompts, tokens, width] on the model's device. All prompts get the same number of tokens: with
  // PromptSyntax::attention, encode a prompt and its negative prompt together.
  Tensor encode_prompt(const Prompts& prompt, std::optional<int> clip_skip = {},
                       PromptSyntax prompt_syntax = PromptSyntax::plain) const;

  const char* class_name() const override { return "StableDiffusionPipeline"; }
  std::vector<Component> models() const override;

  UNet2DConditionModel unet;
  CLIPTextModel text_encoder;
  CLIPTokenizer tokenizer;

 private:
  friend class DiffusionPipeline;
  static StableDiffusionPipeline open(const PipelineFiles& files);
  void add_to(PipelineFolder& folder) const override;
  void check_words(const std::string& component, const std::vector<AddedWord>& words) const override;
  Traits traits() const override;
  TextEmbeddings embed(const PromptTexts& texts) const override;
  Tensor predict(const Tensor& input, const Tensor& timestep, const Conditions& conditions,
                 const std::vector<int64_t>& skip_layers) const override;
};

// SDXL: the base model, and the refiner, which does not have the first text encoder.
class StableDiffusionXLPipeline : public LatentDiffusionPipeline, public StableDiffusionXLLoraLoaderMixin {
 public:
  // Give the first text encoder and its tokenizer, or neither of the two. The constructor throws Error{usage} for one
  // alone, and what StableDiffusionPipeline's constructor throws.
  struct Components {
    AutoencoderKL vae;
    std::optional<CLIPTextModel> text_encoder;
    CLIPTextModel text_encoder_2;
    std::optional<CLIPTokenizer> tokenizer;
    CLIPTokenizer tokenizer_2;
    UNet2DConditionModel unet;
    std::shared_ptr<const Scheduler> scheduler;
    bool force_zeros_for_empty_prompt = true;
    bool requires_aesthetics_score = false;
  };
  explicit StableDiffusionXLPipeline(Components components);
  static StableDiffusionXLPipeline from_pretrained(const std::filesystem::path& path,
                                                   const PipelineOptions& options = {});

  // Leave `prompt_2` empty to reuse the first prompt.
  TextEmbeddings encode_prompt(const Prompts& prompt, const Prompts& prompt_2 = {}, std::optional<int> clip_skip = {},
                               PromptSyntax prompt_syntax = PromptSyntax::plain) const;

  const char* class_name() const override { return "StableDiffusionXLPipeline"; }
  std::vector<Component> models() const override;

  UNet2DConditionModel unet;
  std::optional<CLIPTextModel> text_encoder;
  CLIPTextModel text_encoder_2;
  std::optional<CLIPTokenizer> tokenizer;
  CLIPTokenizer tokenizer_2;
  bool force_zeros_for_empty_prompt = true;  // without a negative prompt, its embeddings are zeros, not those of ""
  bool requires_aesthetics_score = false;    // true for the refiner

 private:
  friend class DiffusionPipeline;
  static StableDiffusionXLPipeline open(const PipelineFiles& files);
  void add_to(PipelineFolder& folder) const override;
  void check_words(const std::string& component, const std::vector<AddedWord>& words) const override;
  Traits traits() const override;
  TextEmbeddings embed(const PromptTexts& texts) const override;
  Tensor predict(const Tensor& input, const Tensor& timestep, const Conditions& conditions,
                 const std::vector<int64_t>& skip_layers) const override;
  TextEmbeddings without_negative_prompt(const TextEmbeddings& prompts, const CallOptions& options) const override;
  Tensor time_ids(const CallOptions& options, int height, int width, bool negative) const override;
};

// Stable Diffusion 3 and 3.5, with or without the third text encoder.
class StableDiffusion3Pipeline : public LatentDiffusionPipeline, public SD3LoraLoaderMixin {
 public:
  // Give the third text encoder and its tokenizer, or neither of the two. The constructor throws as
  // StableDiffusionXLPipeline's does.
  struct Components {
    SD3Transformer2DModel transformer;
    std::shared_ptr<const Scheduler> scheduler;
    AutoencoderKL vae;
    CLIPTextModel text_encoder;
    CLIPTokenizer tokenizer;
    CLIPTextModel text_encoder_2;
    CLIPTokenizer tokenizer_2;
    std::optional<T5EncoderModel> text_encoder_3;
    std::optional<T5Tokenizer> tokenizer_3;
  };
  explicit StableDiffusion3Pipeline(Components components);
  static StableDiffusion3Pipeline from_pretrained(const std::filesystem::path& path,
                                                  const PipelineOptions& options = {});

  TextEmbeddings encode_prompt(const Prompts& prompt, const Prompts& prompt_2 = {}, const Prompts& prompt_3 = {},
                               std::optional<int> clip_skip = {}, int max_sequence_length = 256,
                               PromptSyntax prompt_syntax = PromptSyntax::plain) const;

  const char* class_name() const override { return "StableDiffusion3Pipeline"; }
  std::vector<Component> models() const override;

  SD3Transformer2DModel transformer;
  CLIPTextModel text_encoder, text_encoder_2;
  std::optional<T5EncoderModel> text_encoder_3;
  CLIPTokenizer tokenizer, tokenizer_2;
  std::optional<T5Tokenizer> tokenizer_3;

 private:
  friend class DiffusionPipeline;
  static StableDiffusion3Pipeline open(const PipelineFiles& files);
  void add_to(PipelineFolder& folder) const override;
  void check_words(const std::string& component, const std::vector<AddedWord>& words) const override;
  Traits traits() const override;
  TextEmbeddings embed(const PromptTexts& texts) const override;
  Tensor predict(const Tensor& input, const Tensor& timestep, const Conditions& conditions,
                 const std::vector<int64_t>& skip_layers) const override;
  std::optional<double> mu(int64_t image_tokens) const override;
};

// aMUSEd: all tokens of the image start masked, and each step unmasks some.
class AmusedPipeline : public DiffusionPipeline, public AmusedLoraLoaderMixin {
 public:
  struct Components {
    VQModel vqvae;
    CLIPTokenizer tokenizer;
    CLIPTextModel text_encoder;
    UVit2DModel transformer;
    std::shared_ptr<const Scheduler> scheduler;
  };
  // Throws as StableDiffusionPipeline's constructor does.
  explicit AmusedPipeline(Components components);
  static AmusedPipeline from_pretrained(const std::filesystem::path& path, const PipelineOptions& options = {});

  // Returns the states before the last layer, [prompts, tokens, width], and the pooled embeddings, [prompts, width].
  TextEmbeddings encode_prompt(const Prompts& prompt, PromptSyntax prompt_syntax = PromptSyntax::plain) const;

  // Returns int64 tokens, [images, h, w].
  Tensor generate_latents(const Prompts& prompt, const CallOptions& options = {}) const override;
  std::vector<Image> decode_latents(const Tensor& latents) const override;

  void enable_vae_slicing() override { vqvae.enable_slicing(); }
  void disable_vae_slicing() override { vqvae.disable_slicing(); }
  void enable_vae_tiling(const TilingOptions& options = {}) override;
  void disable_vae_tiling() override {}

  const char* class_name() const override { return "AmusedPipeline"; }
  std::vector<Component> models() const override;
  Component autoencoder() const override { return {"vqvae", &vqvae}; }

  UVit2DModel transformer;
  VQModel vqvae;
  CLIPTextModel text_encoder;
  CLIPTokenizer tokenizer;

 private:
  friend class DiffusionPipeline;
  static AmusedPipeline open(const PipelineFiles& files);
  Tensor run(const Prompts& prompt, const CallOptions& options) const;
  TextEmbeddings embed(const PromptTexts& texts) const;
  void add_to(PipelineFolder& folder) const override;
  void check_words(const std::string& component, const std::vector<AddedWord>& words) const override;
};

}  // namespace lora
