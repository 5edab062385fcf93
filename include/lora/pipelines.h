#pragma once
// diffusers' pipelines, under its names. Image-to-image and inpainting are calls with an image, and with a mask.
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
  // Throws Error{conflict} for a model that another pipeline has, Error{usage} for no scheduler.
  explicit StableDiffusionPipeline(Components components);
  // As DiffusionPipeline::from_pretrained; Error{unsupported} for another pipeline's model.
  static StableDiffusionPipeline from_pretrained(const std::filesystem::path& path,
                                                 const PipelineOptions& options = {});

  // [prompts, tokens, width] on the model's device.
  Tensor encode_prompt(const Prompts& prompt, std::optional<int> clip_skip = {}) const;

  void save_pretrained(const std::filesystem::path& folder) const override;
  const char* class_name() const override { return "StableDiffusionPipeline"; }
  std::vector<Component> models() const override;

  UNet2DConditionModel unet;
  CLIPTextModel text_encoder;
  CLIPTokenizer tokenizer;

 private:
  friend class DiffusionPipeline;
  static StableDiffusionPipeline open(const PipelineFiles& files);
  void check_words(const std::string& component, const std::vector<AddedWord>& words) const override;
  Traits traits() const override;
  TextEmbeddings embed(const Texts& texts) const override;
  Tensor predict(const Tensor& input, const Tensor& timestep, const Conditions& given,
                 const std::vector<int64_t>& skip_layers) const override;
};

// SDXL, base and refiner (which has no first text encoder).
class StableDiffusionXLPipeline : public LatentDiffusionPipeline, public StableDiffusionXLLoraLoaderMixin {
 public:
  // The first text encoder and tokenizer are there both or neither. Throws Error{usage} where one is missing, else as
  // StableDiffusionPipeline's.
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

  // The second prompt is the first where it is empty.
  TextEmbeddings encode_prompt(const Prompts& prompt, const Prompts& prompt_2 = {},
                               std::optional<int> clip_skip = {}) const;

  void save_pretrained(const std::filesystem::path& folder) const override;
  const char* class_name() const override { return "StableDiffusionXLPipeline"; }
  std::vector<Component> models() const override;

  UNet2DConditionModel unet;
  std::optional<CLIPTextModel> text_encoder;
  CLIPTextModel text_encoder_2;
  std::optional<CLIPTokenizer> tokenizer;
  CLIPTokenizer tokenizer_2;
  bool force_zeros_for_empty_prompt = true;  // no negative prompt is zeros, not the text ""
  bool requires_aesthetics_score = false;    // the refiner

 private:
  friend class DiffusionPipeline;
  static StableDiffusionXLPipeline open(const PipelineFiles& files);
  void check_words(const std::string& component, const std::vector<AddedWord>& words) const override;
  Traits traits() const override;
  TextEmbeddings embed(const Texts& texts) const override;
  Tensor predict(const Tensor& input, const Tensor& timestep, const Conditions& given,
                 const std::vector<int64_t>& skip_layers) const override;
  TextEmbeddings no_text(const TextEmbeddings& prompts, const CallOptions& options) const override;
  Tensor time_ids(const CallOptions& options, int height, int width, bool negative) const override;
};

// Stable Diffusion 3 and 3.5, with the third text encoder or without.
class StableDiffusion3Pipeline : public LatentDiffusionPipeline, public SD3LoraLoaderMixin {
 public:
  // The third text encoder and tokenizer are there both or neither; throws as StableDiffusionXLPipeline's.
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
                               std::optional<int> clip_skip = {}, int max_sequence_length = 256) const;

  void save_pretrained(const std::filesystem::path& folder) const override;
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
  void check_words(const std::string& component, const std::vector<AddedWord>& words) const override;
  Traits traits() const override;
  TextEmbeddings embed(const Texts& texts) const override;
  Tensor predict(const Tensor& input, const Tensor& timestep, const Conditions& given,
                 const std::vector<int64_t>& skip_layers) const override;
  std::optional<double> mu(int64_t image_tokens) const override;
};

// aMUSEd: tokens of a codebook that are unmasked step by step.
class AmusedPipeline : public DiffusionPipeline, public AmusedLoraLoaderMixin {
 public:
  struct Components {
    VQModel vqvae;
    CLIPTokenizer tokenizer;
    CLIPTextModel text_encoder;
    UVit2DModel transformer;
    std::shared_ptr<const Scheduler> scheduler;
  };
  // Throws as StableDiffusionPipeline's.
  explicit AmusedPipeline(Components components);
  static AmusedPipeline from_pretrained(const std::filesystem::path& path, const PipelineOptions& options = {});

  // [prompts, tokens, width] of the last layer but one, and [prompts, width].
  TextEmbeddings encode_prompt(const Prompts& prompt) const;

  // int64 [images, h, w].
  Tensor generate_latents(const Prompts& prompt, const CallOptions& options = {}) const override;
  std::vector<Image> decode_latents(const Tensor& latents) const override;

  void save_pretrained(const std::filesystem::path& folder) const override;
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
  void check_words(const std::string& component, const std::vector<AddedWord>& words) const override;
};

}  // namespace lora
