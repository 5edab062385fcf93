#include "files/published_models.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/text.h"
#include "lora/denoisers.h"
#include "lora/text_encoders.h"
#include "models/parts_of.h"
#include "names/flux.h"

namespace lora {

namespace {

// What the configs say beyond the defaults of their classes, as far as it shapes a tensor.
constexpr auto kSd1 = R"({"cross_attention_dim": 768})";
constexpr auto kSd2 = R"({"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
  "use_linear_projection": true})";
constexpr auto kSdxl = R"({"cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
  "block_out_channels": [320, 640, 1280], "use_linear_projection": true, "transformer_layers_per_block": [1, 2, 10],
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
  "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
  "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816})";
constexpr auto kRefiner = R"({"cross_attention_dim": 1280, "attention_head_dim": [6, 12, 24, 24],
  "block_out_channels": [384, 768, 1536, 1536], "use_linear_projection": true, "transformer_layers_per_block": 4,
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
  "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2560})";
constexpr auto kSd3Medium = R"({"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
  "pos_embed_max_size": 192, "attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
  "sample_size": 128})";
constexpr auto kSd35Medium = R"({"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
  "pos_embed_max_size": 384, "attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
  "sample_size": 128, "qk_norm": "rms_norm", "dual_attention_layers": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]})";
constexpr auto kSd35Large = R"({"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
  "pos_embed_max_size": 192, "attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
  "sample_size": 128, "qk_norm": "rms_norm"})";
constexpr auto kAmused256 = R"({"sample_size": 16})";
constexpr auto kAmused512 = R"({"sample_size": 32, "downsample": true, "upsample": true})";
constexpr auto kClipL = R"({"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
  "num_hidden_layers": 12})";
constexpr auto kClipLProjected = R"({"architectures": ["CLIPTextModelWithProjection"], "hidden_size": 768,
  "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12, "projection_dim": 768})";
constexpr auto kClipH = R"({"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
  "num_hidden_layers": 23})";
constexpr auto kClipG = R"({"architectures": ["CLIPTextModelWithProjection"], "hidden_size": 1280,
  "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32, "projection_dim": 1280})";
constexpr auto kT5Xxl = R"({"d_model": 4096, "d_ff": 10240, "num_heads": 64, "num_layers": 24,
  "feed_forward_proj": "gated-gelu"})";

template <class Built>
std::shared_ptr<Parts> build(const std::string& config) {
  auto model = Built::random(config, 0, {.device = at::kMeta});
  return shared_parts_of(model);
}

struct Row {
  const char *family, *component, *model;
  std::shared_ptr<Parts> (*build)(const std::string& config);
  const char* config;
};

constexpr Row kRows[] = {
    {"SD 1.x", "unet", "SD 1.5's UNet", build<UNet2DConditionModel>, kSd1},
    {"SD 1.x", "text_encoder", "CLIP-L", build<CLIPTextModel>, kClipL},
    {"SD 2.x", "unet", "SD 2.1's UNet", build<UNet2DConditionModel>, kSd2},
    {"SD 2.x", "text_encoder", "OpenCLIP-H", build<CLIPTextModel>, kClipH},
    {"SDXL", "unet", "SDXL's UNet", build<UNet2DConditionModel>, kSdxl},
    {"SDXL", "text_encoder", "CLIP-L", build<CLIPTextModel>, kClipL},
    {"SDXL", "text_encoder_2", "OpenCLIP-G", build<CLIPTextModel>, kClipG},
    {"SDXL refiner", "unet", "the SDXL refiner's UNet", build<UNet2DConditionModel>, kRefiner},
    {"SDXL refiner", "text_encoder_2", "OpenCLIP-G", build<CLIPTextModel>, kClipG},
    {"SD 3", "transformer", "SD 3 medium's transformer", build<SD3Transformer2DModel>, kSd3Medium},
    {"SD 3", "transformer", "SD 3.5 medium's transformer", build<SD3Transformer2DModel>, kSd35Medium},
    {"SD 3", "transformer", "SD 3.5 large's transformer", build<SD3Transformer2DModel>, kSd35Large},
    {"SD 3", "text_encoder", "CLIP-L", build<CLIPTextModel>, kClipLProjected},
    {"SD 3", "text_encoder_2", "OpenCLIP-G", build<CLIPTextModel>, kClipG},
    {"SD 3", "text_encoder_3", "T5-XXL", build<T5EncoderModel>, kT5Xxl},
    {"Flux", "text_encoder", "CLIP-L", build<CLIPTextModel>, kClipL},
    {"Flux", "text_encoder_2", "T5-XXL", build<T5EncoderModel>, kT5Xxl},
    {"aMUSEd", "transformer", "aMUSEd 256's transformer", build<UVit2DModel>, kAmused256},
    {"aMUSEd", "transformer", "aMUSEd 512's transformer", build<UVit2DModel>, kAmused512},
    {"aMUSEd", "text_encoder", "CLIP-L", build<CLIPTextModel>, kClipLProjected},
};

PublishedComponent listed(const Row& row) {
  PublishedComponent found{.model = row.model, .layers = {}};
  auto parts = row.build(row.config);
  for (const auto& site : parts->sites) found.layers[site->path] = {site->kind, site->weight.sizes().vec()};
  return found;
}

PublishedComponent flux_transformer() {
  PublishedComponent found{.model = "FLUX.1's transformer", .layers = {}};
  for (const auto& row : flux_rows()) {
    auto blocks = row.native.starts_with("double_blocks.")   ? kFluxDoubleBlocks
                  : row.native.starts_with("single_blocks.") ? kFluxSingleBlocks
                                                             : 1;
    bool norm = row.native.ends_with("_norm");
    for (int i = 0; i < blocks; ++i)
      found.layers[replace_all(std::string(row.ours), "#", std::to_string(i))].kind =
          norm ? SiteKind::norm : SiteKind::linear;
  }
  return found;
}

}  // namespace

size_t PublishedComponent::trainable() const {
  return static_cast<size_t>(std::count_if(layers.begin(), layers.end(), [](auto& layer) {
    return layer.second.kind == SiteKind::linear || layer.second.kind == SiteKind::conv2d;
  }));
}

std::vector<PublishedComponent> published_components(const std::string& family, const std::string& component) {
  if (family == "Flux" && component == "transformer") return {flux_transformer()};
  std::vector<PublishedComponent> found;
  for (const auto& row : kRows)
    if (row.family == family && row.component == component) found.push_back(listed(row));
  return found;
}

}  // namespace lora
