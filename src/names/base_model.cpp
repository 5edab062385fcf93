#include "names/base_model.h"

#include <algorithm>
#include <cctype>

#include "core/check.h"
#include "core/text.h"
#include "names/flux_sizes.h"
#include "names/sdxl_unet.h"

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

// ---- Evidence -------------------------------------------------------------------------------------------------------

constexpr View kAmusedMarks[] = {"transformer_layers_#", "kv_mapper"};
constexpr BlockList kAmusedBlocks[] = {{"transformer_layers", 22}};

constexpr View kSd3Marks[] = {"^joint_blocks_#"};
constexpr View kSd3Names[] = {"^transformer_blocks_#_attn_", "^x_embedder_proj", "^t_embedder_mlp", "^y_embedder_mlp",
  "^final_layer_linear$", "^final_layer_adaLN_modulation_1$"};
constexpr View kSd3Never[] = {"^transformer_blocks_#_attn1_"};
constexpr View kSd3NamesAtWidth[] = {"^transformer_blocks_#_ff_"};
constexpr int64_t kSd3Widths[] = {1536, 2432};
constexpr LayerSize kSd3Sizes[] = {
  {"^transformer_blocks_#_attn_", 1, 1}, {"^transformer_blocks_#_attn2_", 1, 1},
  {"^transformer_blocks_#_ff_net_0_proj$", 4, 1}, {"^transformer_blocks_#_ff_net_2$", 1, 4},
  {"^transformer_blocks_#_ff_context_net_0_proj$", 4, 1}, {"^transformer_blocks_#_ff_context_net_2$", 1, 4},
  {"^joint_blocks_#_*_block_attn_qkv$", 3, 1}, {"^x_embedder_proj$", 1, 0}, {"^t_embedder_mlp_0$", 1, 0},
  {"^t_embedder_mlp_2$", 1, 1}, {"^y_embedder_mlp_0$", 1, 0}, {"^y_embedder_mlp_2$", 1, 1},
  {"^final_layer_linear$", 0, 1}, {"^final_layer_adaLN_modulation_1$", 2, 1}};
constexpr BlockList kSd3Blocks[] = {{"joint_blocks", 38}, {"transformer_blocks", 38}};

constexpr View kFluxMarks[] = {"^single_blocks_#_linear1_qkv"};  // XLabs'
constexpr View kFluxNames[] = {"^double_blocks_#", "^single_blocks_#", "^single_transformer_blocks_#_attn_to_q$",
  "^single_transformer_blocks_#_attn_to_k$", "^single_transformer_blocks_#_attn_to_v$",
  "^single_transformer_blocks_#_proj_", "^single_transformer_blocks_#_norm_linear$", "^img_in$", "^txt_in$",
  "^time_in_*_layer$", "^vector_in_*_layer$", "^guidance_in_*_layer$"};
constexpr View kFluxNever[] = {"^transformer_blocks_#_attn1_", "^transformer_blocks_#_attn2_", "^time_embed_",
  "^caption_projection_", "^single_transformer_blocks_#_ff_"};
constexpr View kFluxNamesAtWidth[] = {"^transformer_blocks_#_attn_", "^transformer_blocks_#_ff_"};
constexpr int64_t kFluxWidths[] = {3072};
constexpr BlockList kFluxBlocks[] = {{"double_blocks", 19}, {"single_blocks", 38}, {"transformer_blocks", 19},
  {"single_transformer_blocks", 38}};
constexpr BaseModel kLikeFlux[] = {BaseModel::chroma, BaseModel::hunyuan_video};

// Among UNets the depth of the transformers and the second text encoder are SDXL's alone.
constexpr View kSdxlUNetMarks[] = {"transformer_blocks_2_", "add_embedding", "label_emb"};
constexpr BaseModel kLikeSdxl[] = {BaseModel::kolors};
constexpr View kSdNever[] = {"blocks_#_attentions_#_transformer_blocks_1_", "blocks_#_1_transformer_blocks_1_",
  "middle_block_1_transformer_blocks_1_", "mid_block_attentions_0_transformer_blocks_1_", "add_embedding", "label_emb"};

constexpr View kSd1Metadata[] = {"sdv1", "sd14", "sd15", "stablediffusionv1"};
constexpr View kSd2Metadata[] = {"sdv2", "sd20", "sd21", "stablediffusionv2"};
constexpr View kSdxlMetadata[] = {"sdxl", "stablediffusionxl"};
constexpr View kRefinerMetadata[] = {"sdxlrefiner", "stablediffusionxlv1refiner"};
constexpr View kSd3Metadata[] = {"sd3", "stablediffusion3"};
constexpr View kFluxMetadata[] = {"flux$", "flux1", "fluxdev", "fluxschnell", "fluxkontext"};
constexpr View kAmusedMetadata[] = {"amused"};

// ---- Base models ----------------------------------------------------------------------------------------------------

constexpr BaseModelRow kRows[] = {
  {.model = BaseModel::amused, .name = "amused", .label = "aMUSEd", .pipeline = "AmusedPipeline",
   .components = kAmused, .evidence = {.marks = kAmusedMarks, .blocks = kAmusedBlocks}, .metadata = kAmusedMetadata},
  {.model = BaseModel::flux, .name = "flux", .label = "Flux", .pipeline = "FluxPipeline", .components = kFlux,
   .native = NativeNames::flux, .kohya_has_native_names = true,
   .evidence = {.marks = kFluxMarks, .names = kFluxNames, .names_at_width = kFluxNamesAtWidth, .widths = kFluxWidths,
                .sizes = kFluxSizes, .blocks = kFluxBlocks, .never = kFluxNever, .alike = kLikeFlux},
   .metadata = kFluxMetadata, .network_module = "networks.lora_flux", .version = "flux1", .spec = "flux-1-dev"},
  {.model = BaseModel::sd3, .name = "sd3", .label = "SD 3", .pipeline = "StableDiffusion3Pipeline",
   .components = kSd3, .native = NativeNames::sd3, .kohya_has_native_names = true,
   .evidence = {.marks = kSd3Marks, .names = kSd3Names, .names_at_width = kSd3NamesAtWidth, .widths = kSd3Widths,
                .sizes = kSd3Sizes, .blocks = kSd3Blocks, .never = kSd3Never},
   .metadata = kSd3Metadata, .network_module = "networks.lora_sd3", .spec = "stable-diffusion-3-medium"},
  {.model = BaseModel::sdxl, .name = "sdxl", .label = "SDXL", .pipeline = "StableDiffusionXLPipeline",
   .components = kSdxl, .native = NativeNames::unet, .kohya_has_native_names = true,
   .evidence = {.never = kSdxlNever, .alike = kLikeSdxl}, .cross_attention = kSdxlCrossAttention,
   .unet_marks = kSdxlUNetMarks, .metadata = kSdxlMetadata, .network_module = "networks.lora", .version = "sdxl_base_v1-0",
   .spec = "stable-diffusion-xl-v1-base"},
  {.model = BaseModel::sdxl_refiner, .name = "sdxl-refiner", .label = "SDXL refiner",
   .pipeline = "StableDiffusionXLPipeline", .components = kRefiner, .native = NativeNames::unet,
   .kohya_has_native_names = true, .first_attention = 1, .cross_attention = 1280, .metadata = kRefinerMetadata,
   .network_module = "networks.lora", .spec = "stable-diffusion-xl-v1-refiner"},
  {.model = BaseModel::sd2, .name = "sd2", .label = "SD 2.x", .pipeline = "StableDiffusionPipeline",
   .components = kSd2, .native = NativeNames::unet, .first_attention = 1, .evidence = {.never = kSdNever},
   .cross_attention = 1024, .metadata = kSd2Metadata, .network_module = "networks.lora", .version = "sd_v2",
   .spec = "stable-diffusion-v2-768-v", .is_v2 = true},
  {.model = BaseModel::sd1, .name = "sd1", .label = "SD 1.x", .pipeline = "StableDiffusionPipeline",
   .components = kSd1, .native = NativeNames::unet, .first_attention = 1, .evidence = {.never = kSdNever},
   .cross_attention = 768, .metadata = kSd1Metadata, .network_module = "networks.lora", .version = "sd_v1",
   .spec = "stable-diffusion-v1"},
};
// clang-format on

const BaseModelRow* row_where(auto condition) {
  auto rows = base_models();
  auto row = std::find_if(rows.begin(), rows.end(), condition);
  return row == rows.end() ? nullptr : &*row;
}

}  // namespace

std::span<const BaseModelRow> base_models() {
  static const auto all = [] {
    std::vector<BaseModelRow> rows(std::begin(kRows), std::end(kRows));
    rows.insert(rows.end(), foreign_models().begin(), foreign_models().end());
    return rows;
  }();
  return all;
}

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

bool starts_with_block_list(std::string_view path) {
  auto dot = path.find('.');
  auto first = path.substr(0, dot);
  if (dot == path.npos || dot + 1 == path.size() || !std::isdigit(static_cast<unsigned char>(path[dot + 1])))
    return false;
  return row_where([&](auto& row) {
    const auto& lists = row.evidence.blocks;
    return std::any_of(lists.begin(), lists.end(), [&](auto& list) { return list.name == first; });
  });
}

const ComponentRow* BaseModelRow::component(std::string_view wanted) const {
  auto row = std::find_if(components.begin(), components.end(), [&](auto& c) { return c.name == wanted; });
  return row == components.end() ? nullptr : &*row;
}

std::string_view to_string(BaseModel model) {
  auto* row = row_of(model);
  return row ? row->label : "";
}

std::vector<std::string> base_model_names() {
  std::vector<std::string> names;
  for (const auto& row : base_models()) names.emplace_back(row.name);
  return names;
}

BaseModel parse_base_model(const std::string& name) {
  auto* row = row_where([&](auto& r) { return r.name == name; });
  check(row, ErrorKind::usage, "\"{}\" is no base model that is known here; there are: {}", name,
        join(base_model_names(), ", "));
  return row->model;
}

}  // namespace lora
