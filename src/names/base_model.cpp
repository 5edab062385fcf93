#include "names/base_model.h"

#include <algorithm>

namespace lora {

namespace {

using View = std::string_view;

// ---- Published components -------------------------------------------------------------------------------------------

// clang-format off
constexpr PublishedConfig kSd1UNet[] = {{"SD 1.5's UNet", R"({"cross_attention_dim": 768})"}};
constexpr PublishedConfig kSd2UNet[] = {{"SD 2.1's UNet", R"({"cross_attention_dim": 1024,
  "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true})"}};
constexpr PublishedConfig kSdxlUNet[] = {{"SDXL's UNet", R"({"cross_attention_dim": 2048,
  "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "use_linear_projection": true,
  "transformer_layers_per_block": [1, 2, 10],
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
  "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
  "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
  "projection_class_embeddings_input_dim": 2816})"}};
constexpr PublishedConfig kRefinerUNet[] = {{"the SDXL refiner's UNet", R"({"cross_attention_dim": 1280,
  "attention_head_dim": [6, 12, 24, 24], "block_out_channels": [384, 768, 1536, 1536], "use_linear_projection": true,
  "transformer_layers_per_block": 4,
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
  "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
  "projection_class_embeddings_input_dim": 2560})"}};
constexpr PublishedConfig kSd3Transformers[] = {
  {"SD 3 medium's transformer", R"({"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
    "pos_embed_max_size": 192, "attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
    "sample_size": 128})"},
  {"SD 3.5 medium's transformer", R"({"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
    "pos_embed_max_size": 384, "attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
    "sample_size": 128, "qk_norm": "rms_norm", "dual_attention_layers": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]})"},
  {"SD 3.5 large's transformer", R"({"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
    "pos_embed_max_size": 192, "attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
    "sample_size": 128, "qk_norm": "rms_norm"})"}};
constexpr PublishedConfig kFluxTransformer[] = {{"FLUX.1's transformer", ""}};
constexpr PublishedConfig kAmusedTransformers[] = {
  {"aMUSEd 256's transformer", R"({"sample_size": 16})"},
  {"aMUSEd 512's transformer", R"({"sample_size": 32, "downsample": true, "upsample": true})"}};
constexpr PublishedConfig kClipL[] = {{"CLIP-L", R"({"hidden_size": 768, "intermediate_size": 3072,
  "num_attention_heads": 12, "num_hidden_layers": 12})"}};
constexpr PublishedConfig kClipLProjected[] = {{"CLIP-L", R"({"architectures": ["CLIPTextModelWithProjection"],
  "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
  "projection_dim": 768})"}};
constexpr PublishedConfig kClipH[] = {{"OpenCLIP-H", R"({"hidden_size": 1024, "intermediate_size": 4096,
  "num_attention_heads": 16, "num_hidden_layers": 23})"}};
constexpr PublishedConfig kClipG[] = {{"OpenCLIP-G", R"({"architectures": ["CLIPTextModelWithProjection"],
  "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
  "projection_dim": 1280})"}};
constexpr PublishedConfig kT5Xxl[] = {{"T5-XXL", R"({"d_model": 4096, "d_ff": 10240, "num_heads": 64, "num_layers": 24,
  "feed_forward_proj": "gated-gelu"})"}};

// ---- Components -----------------------------------------------------------------------------------------------------

constexpr View kUNet = "UNet2DConditionModel", kClip = "CLIPTextModel", kClipProjection = "CLIPTextModelWithProjection";
constexpr View kLoraUNet = "lora_unet_", kDiffusionModel = "diffusion_model";
constexpr ComponentRow kVae{.name = "vae", .class_name = "AutoencoderKL"};
constexpr ComponentRow kTextEncoderG{"text_encoder_2", kClipProjection, "lora_te2_", "clip_g", kClipG};

constexpr ComponentRow kSd1[] = {
  {"unet", kUNet, kLoraUNet, kDiffusionModel, kSd1UNet},
  {"text_encoder", kClip, "lora_te_", "clip_l", kClipL, true},
  kVae,
};
constexpr ComponentRow kSd2[] = {
  {"unet", kUNet, kLoraUNet, kDiffusionModel, kSd2UNet},
  {"text_encoder", kClip, "lora_te_", "clip_h", kClipH, true},
  kVae,
};
constexpr ComponentRow kSdxl[] = {
  {"unet", kUNet, kLoraUNet, kDiffusionModel, kSdxlUNet},
  {"text_encoder", kClip, "lora_te1_", "clip_l", kClipL, true},
  kTextEncoderG,
  kVae,
};
constexpr ComponentRow kRefiner[] = {
  {"unet", kUNet, kLoraUNet, kDiffusionModel, kRefinerUNet},
  kTextEncoderG,
  kVae,
};
constexpr ComponentRow kSd3[] = {
  {"transformer", "SD3Transformer2DModel", kLoraUNet, kDiffusionModel, kSd3Transformers},
  {"text_encoder", kClipProjection, "lora_te1_", "clip_l", kClipLProjected},
  kTextEncoderG,
  {"text_encoder_3", "T5EncoderModel", "lora_te3_", "t5xxl", kT5Xxl},
  kVae,
};
constexpr ComponentRow kFlux[] = {
  {"transformer", "FluxTransformer2DModel", kLoraUNet, kDiffusionModel, kFluxTransformer},
  {"text_encoder", kClip, "lora_te1_", "clip_l", kClipL, true},
  {"text_encoder_2", "T5EncoderModel", "lora_te3_", "t5xxl", kT5Xxl},
  kVae,
};
constexpr ComponentRow kAmused[] = {
  {"transformer", "UVit2DModel", "", "", kAmusedTransformers},
  {"text_encoder", kClipProjection, "", "", kClipLProjected},
  {.name = "vqvae", .class_name = "VQModel"},
};

// ---- Base models ----------------------------------------------------------------------------------------------------

constexpr View kAmusedMarks[] = {"transformer_layers", "kv_mapper"};
constexpr View kFluxMarks[] = {"double_blocks", "single_blocks", "single_transformer_blocks", "guidance_in"};
constexpr View kSd3Marks[] = {"joint_blocks", "add_k_proj"};
// Among UNets the depth of the transformers and the second text encoder are SDXL's alone.
constexpr View kSdxlUNetMarks[] = {"transformer_blocks.2.", "add_embedding", "label_emb"};

constexpr BaseModelRow kRows[] = {
  {.model = BaseModel::amused, .label = "aMUSEd", .pipeline = "AmusedPipeline", .components = kAmused,
   .native = NativeNames::none, .kohya_has_native_names = false, .marks = kAmusedMarks},
  {.model = BaseModel::flux, .label = "Flux", .pipeline = "FluxPipeline", .components = kFlux,
   .native = NativeNames::flux, .kohya_has_native_names = true, .marks = kFluxMarks, .attention = 3072,
   .version_prefix = "flux", .spec_prefix = "flux-1", .network_module = "networks.lora_flux", .version = "flux1"},
  {.model = BaseModel::sd3, .label = "SD 3", .pipeline = "StableDiffusion3Pipeline", .components = kSd3,
   .native = NativeNames::sd3, .kohya_has_native_names = true, .marks = kSd3Marks, .attention = 0,
   .version_prefix = "sd3", .spec_prefix = "stable-diffusion-3", .network_module = "networks.lora_sd3"},
  {.model = BaseModel::sdxl, .label = "SDXL", .pipeline = "StableDiffusionXLPipeline", .components = kSdxl,
   .native = NativeNames::unet, .kohya_has_native_names = true, .cross_attention = 2048,
   .unet_marks = kSdxlUNetMarks, .version_prefix = "sdxl_", .spec_prefix = "stable-diffusion-xl-v1-base",
   .network_module = "networks.lora", .version = "sdxl_base_v1-0"},
  {.model = BaseModel::sdxl_refiner, .label = "SDXL refiner", .pipeline = "StableDiffusionXLPipeline",
   .components = kRefiner, .native = NativeNames::unet, .kohya_has_native_names = true, .first_attention = 1,
   .cross_attention = 1280, .spec_prefix = "stable-diffusion-xl-v1-refiner", .network_module = "networks.lora"},
  {.model = BaseModel::sd2, .label = "SD 2.x", .pipeline = "StableDiffusionPipeline", .components = kSd2,
   .native = NativeNames::unet, .kohya_has_native_names = false, .first_attention = 1, .cross_attention = 1024,
   .version_prefix = "sd_v2", .spec_prefix = "stable-diffusion-v2", .network_module = "networks.lora",
   .version = "sd_v2", .is_v2 = true},
  {.model = BaseModel::sd1, .label = "SD 1.x", .pipeline = "StableDiffusionPipeline", .components = kSd1,
   .native = NativeNames::unet, .kohya_has_native_names = false, .first_attention = 1, .cross_attention = 768,
   .version_prefix = "sd_v1", .spec_prefix = "stable-diffusion-v1", .network_module = "networks.lora",
   .version = "sd_v1"},
};
// clang-format on

const BaseModelRow* row_where(auto condition) {
  auto row = std::find_if(std::begin(kRows), std::end(kRows), condition);
  return row == std::end(kRows) ? nullptr : row;
}

}  // namespace

std::span<const BaseModelRow> base_models() { return kRows; }

const BaseModelRow* row_of(BaseModel model) {
  return row_where([&](auto& row) { return row.model == model; });
}

const BaseModelRow* row_of_pipeline(std::string_view class_name) {
  return row_where([&](auto& row) { return row.pipeline == class_name; });
}

BaseModel unet_with_cross_attention(int64_t width) {
  auto* row = row_where([&](auto& r) { return width != 0 && r.cross_attention == width; });
  return row ? row->model : BaseModel::unknown;
}

const ComponentRow* BaseModelRow::component(std::string_view name) const {
  auto row = std::find_if(components.begin(), components.end(), [&](auto& c) { return c.name == name; });
  return row == components.end() ? nullptr : &*row;
}

std::string_view to_string(BaseModel model) {
  auto* row = row_of(model);
  return row ? row->label : "";
}

}  // namespace lora
