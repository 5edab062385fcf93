// Models that are known by name only: one row a model, with what tells its files. The names of their layers elsewhere
// are not known here, so nothing renames or loads their files.
//
// Names, depths and widths are those of the published models, in the spellings of diffusers, of the models' own code
// (which ComfyUI has too) and of kohya's scripts.
#include "names/base_model.h"
#include "names/flux_sizes.h"
#include "names/sdxl_unet.h"

namespace lora {

namespace {

using View = std::string_view;
using Pair = std::pair<View, View>;

constexpr ComponentRow kTransformer[] = {{.name = "transformer", .class_name = ""}};
constexpr ComponentRow kUNet[] = {{.name = "unet", .class_name = ""}};

// clang-format off

// ---- Flux' relatives: two streams, then one -------------------------------------------------------------------------

constexpr View kTwoStreams[] = {"^double_blocks_#", "^single_blocks_#", "^transformer_blocks_#_attn_",
  "^transformer_blocks_#_ff_net_", "^transformer_blocks_#_ff_context_net_", "^single_transformer_blocks_#"};

// FLUX.2: the modulation is outside the blocks; a single block has one layer for q, k, v and the gated MLP.
constexpr View kFlux2Marks[] = {"to_qkv_mlp_proj", "^double_stream_modulation_", "^single_stream_modulation_lin",
  "^transformer_blocks_#_ff_linear_", "^transformer_blocks_#_ff_context_linear_"};
constexpr View kFlux2Names[] = {"^double_blocks_#", "^single_blocks_#", "^transformer_blocks_#_attn_",
  "^single_transformer_blocks_#_attn_to_out"};
constexpr View kFlux2Never[] = {"^single_transformer_blocks_#_attn_to_q$", "^single_transformer_blocks_#_attn_to_k$",
  "^single_transformer_blocks_#_attn_to_v$", "^double_blocks_#_*_mod_", "^single_blocks_#_modulation_", "^transformer_blocks_#_norm1",
  "^transformer_blocks_#_ff_net_", "^single_transformer_blocks_#_proj_", "^single_transformer_blocks_#_norm_",
  "^vector_in", "mlp_fc1", "mlp_fc2", "^caption_projection_", "^time_embed_"};
constexpr LayerSize kFlux2Sizes[] = {
  {"^double_blocks_#_*_attn_qkv$", 3, 1}, {"^double_blocks_#_*_attn_proj$", 1, 1},
  {"^double_blocks_#_*_mlp_0$", 6, 1}, {"^double_blocks_#_*_mlp_2$", 1, 3},
  {"^single_blocks_#_linear1$", 9, 1}, {"^single_blocks_#_linear2$", 1, 4},
  {"^transformer_blocks_#_attn_", 1, 1},
  {"^transformer_blocks_#_ff_linear_in$", 6, 1}, {"^transformer_blocks_#_ff_linear_out$", 1, 3},
  {"^transformer_blocks_#_ff_context_linear_in$", 6, 1}, {"^transformer_blocks_#_ff_context_linear_out$", 1, 3},
  {"^single_transformer_blocks_#_attn_to_qkv_mlp_proj$", 9, 1}, {"^single_transformer_blocks_#_attn_to_out", 1, 4},
  {"^double_stream_modulation_", 6, 1}, {"^single_stream_modulation_", 3, 1}};
constexpr int64_t kFlux2Widths[] = {6144}, kKleinWidths[] = {3072, 4096};
constexpr BlockList kFlux2Blocks[] = {{"double_blocks", 8}, {"single_blocks", 48}, {"transformer_blocks", 8},
  {"single_transformer_blocks", 48}};
constexpr BlockList kKleinBlocks[] = {{"double_blocks", 8}, {"single_blocks", 24}, {"transformer_blocks", 8},
  {"single_transformer_blocks", 24}};
constexpr BaseModel kLikeFlux2[] = {BaseModel::flux2_klein};
constexpr View kFlux2Metadata[] = {"flux2"}, kKleinMetadata[] = {"flux2klein"};

// Chroma: Flux without modulations in its blocks.
constexpr View kChromaMarks[] = {"^distilled_guidance_layer", "^nerf_"};
constexpr View kChromaNever[] = {"^double_blocks_#_*_mod_", "^single_blocks_#_modulation_", "^transformer_blocks_#_norm1",
  "^single_transformer_blocks_#_norm_", "^vector_in", "^guidance_in", "mlp_fc1", "mlp_fc2",
  "^transformer_blocks_#_attn1_", "^transformer_blocks_#_attn2_", "^single_transformer_blocks_#_ff_",
  "^caption_projection_", "^time_embed_"};
constexpr int64_t kFluxWidths[] = {3072};
constexpr BlockList kChromaBlocks[] = {{"double_blocks", 19}, {"single_blocks", 38}, {"transformer_blocks", 19},
  {"single_transformer_blocks", 38}};
constexpr View kChromaMetadata[] = {"chroma"};

// HunyuanVideo and HunyuanImage: `img_attn_qkv` where Flux has `img_attn.qkv`.
constexpr View kHunyuanNever[] = {"^transformer_blocks_#_attn1_", "^transformer_blocks_#_attn2_",
  "^single_transformer_blocks_#_ff_", "^caption_projection_", "^time_embed_"};
// HunyuanVideo 1.5 has `time_embed`.
constexpr View kHunyuanVideo15Never[] = {"^transformer_blocks_#_attn1_", "^transformer_blocks_#_attn2_",
  "^single_transformer_blocks_#_ff_", "^caption_projection_"};
constexpr View kHunyuanMarks[] = {"individual_token_refiner", "token_refiner_refiner_blocks", "^double_blocks_#_*_mlp_fc",
  "^double_blocks_#_*_mod_linear", "^single_blocks_#_modulation_linear", ".img_attn_qkv", ".txt_attn_qkv",
  ".img_attn_proj", ".txt_attn_proj"};
constexpr int64_t kHunyuanVideoWidths[] = {3072}, kHunyuanVideo15Widths[] = {2048}, kHunyuanImageWidths[] = {3584};
constexpr BlockList kHunyuanBlocks[] = {{"double_blocks", 20}, {"single_blocks", 40}, {"transformer_blocks", 20},
  {"single_transformer_blocks", 40}};
constexpr BlockList kHunyuanVideo15Blocks[] = {{"double_blocks", 54}, {"transformer_blocks", 54}};
constexpr BaseModel kLikeHunyuanVideo[] = {BaseModel::hunyuan_image, BaseModel::hunyuan_video15};
constexpr View kHunyuanVideoMetadata[] = {"hunyuanvideo", "framepack"}, kHunyuanVideo15Metadata[] = {"hunyuanvideo15"},
  kHunyuanImageMetadata[] = {"hunyuanimage"};

// AuraFlow
constexpr View kAuraFlowMarks[] = {"^joint_transformer_blocks_#", "^double_layers_#", "^single_layers_#",
  "_ff_out_projection"};
constexpr View kAuraFlowNames[] = {"^single_transformer_blocks_#_attn_", "^single_transformer_blocks_#_ff_linear_1$",
  "^single_transformer_blocks_#_ff_linear_2$", "^single_transformer_blocks_#_norm1_"};
constexpr View kAuraFlowNever[] = {"^single_transformer_blocks_#_proj_", "^single_transformer_blocks_#_norm_linear"};
constexpr LayerSize kAuraFlowSizes[] = {{"^joint_transformer_blocks_#_attn_", 1, 1},
  {"^single_transformer_blocks_#_attn_", 1, 1}, {"^single_transformer_blocks_#_ff_linear_", 0, 1},
  {"^single_transformer_blocks_#_norm1_", 6, 1}};
constexpr BlockList kAuraFlowBlocks[] = {{"joint_transformer_blocks", 4}, {"single_transformer_blocks", 32},
  {"double_layers", 4}, {"single_layers", 32}};
constexpr View kAuraFlowMetadata[] = {"auraflow"};

// HiDream
constexpr View kHiDreamMarks[] = {"^double_stream_blocks_#", "^single_stream_blocks_#"};
constexpr BlockList kHiDreamBlocks[] = {{"double_stream_blocks", 16}, {"single_stream_blocks", 32}};
constexpr View kHiDreamMetadata[] = {"hidream"};

// ---- Two streams only -----------------------------------------------------------------------------------------------

constexpr View kQwenMarks[] = {"^transformer_blocks_#_img_mod_", "^transformer_blocks_#_txt_mod_",
  "^transformer_blocks_#_img_mlp_", "^transformer_blocks_#_txt_mlp_"};
constexpr View kQwenNames[] = {"^transformer_blocks_#_attn_", "^img_in$", "^txt_in$"};
constexpr int64_t kQwenWidths[] = {3072, 4096};  // 4096: Qwen-Image 2.1
constexpr LayerSize kQwenSizes[] = {{"^transformer_blocks_#_attn_", 1, 1}, {"^img_in$", 1, 0},
  {"^txt_in$", 1, 0, 3584}};
constexpr BlockList kQwenBlocks[] = {{"transformer_blocks", 60}};
constexpr View kQwenNever[] = {"^transformer_blocks_#_ff_", "^transformer_blocks_#_norm1",
  "^transformer_blocks_#_attn1_", "^transformer_blocks_#_attn2_", "^caption_projection_", "^time_embed_"};
constexpr View kQwenMetadata[] = {"qwenimage", "qwen"};

// Mochi
constexpr View kMochiMarks[] = {"^blocks_#_attn_qkv_x", "^blocks_#_attn_qkv_y", "^blocks_#_attn_proj_x",
  "^blocks_#_attn_proj_y", "^blocks_#_mlp_x_", "^blocks_#_mlp_y_", "^blocks_#_mod_x", "^blocks_#_mod_y",
  "^transformer_blocks_#_attn1_add_", "^transformer_blocks_#_attn1_to_add_out"};
constexpr View kMochiNames[] = {"^transformer_blocks_#_attn1_to_"};
constexpr int64_t kMochiWidths[] = {3072};
constexpr LayerSize kMochiSizes[] = {{"^transformer_blocks_#_attn1_to_q$", 1, 1}, {"^transformer_blocks_#_attn1_to_k$", 1, 1},
  {"^transformer_blocks_#_attn1_to_v$", 1, 1}, {"^transformer_blocks_#_attn1_to_out_", 1, 1}};
constexpr BlockList kMochiBlocks[] = {{"blocks", 48}, {"transformer_blocks", 48}};
constexpr View kMochiMetadata[] = {"mochi"};

// ---- `transformer_blocks` with attn1, and most of them with attn2 ---------------------------------------------------

constexpr View kAttn12[] = {"^transformer_blocks_#_attn1_", "^transformer_blocks_#_attn2_",
  "^transformer_blocks_#_ff_net_"};
constexpr View kAttn1[] = {"^transformer_blocks_#_attn1_", "^transformer_blocks_#_ff_net_"};
constexpr View kNoAttn2[] = {"^transformer_blocks_#_attn2_", "^transformer_blocks_#_attn_"};
constexpr View kNoAttn[] = {"^transformer_blocks_#_attn_", "^transformer_blocks_#_norm1_linear"};
constexpr LayerSize kAttn12Sizes[] = {{"^transformer_blocks_#_attn1_", 1, 1}, {"^transformer_blocks_#_attn2_", 1, 1},
  {"^transformer_blocks_#_ff_net_0_proj$", 4, 1}, {"^transformer_blocks_#_ff_net_2$", 1, 4}};
constexpr Pair kBothAttentions[] = {{"^transformer_blocks_#_attn1_to_q$", "^transformer_blocks_#_attn2_to_q$"},
  {"^transformer_blocks_#_attn1_to_k$", "^transformer_blocks_#_attn2_to_k$"},
  {"^transformer_blocks_#_attn1_to_v$", "^transformer_blocks_#_attn2_to_v$"},
  {"^transformer_blocks_#_attn1_to_out_0$", "^transformer_blocks_#_attn2_to_out_0$"}};

constexpr View kLtxMarks[] = {"^patchify_proj"};
constexpr int64_t kLtxWidths[] = {2048, 4096}, kLtx2Widths[] = {4096};
constexpr BlockList kLtxBlocks[] = {{"transformer_blocks", 48}};
constexpr BaseModel kLikeLtx[] = {BaseModel::ltx2};
constexpr View kLtxMetadata[] = {"ltx"};
constexpr View kLtx2Marks[] = {"^transformer_blocks_#_audio_", "audio_to_video_attn", "video_to_audio_attn", "^audio_",
  "^av_ca_", "^av_cross_attn_"};
constexpr View kLtx2Metadata[] = {"ltx2", "ltxvideo2", "ltxv2"};

constexpr View kPixArtMarks[] = {"^blocks_#_cross_attn_q_linear", "^blocks_#_cross_attn_kv_linear",
  "^adaln_single_emb_resolution_embedder", "^adaln_single_emb_aspect_ratio_embedder"};
constexpr int64_t kPixArtWidths[] = {1152};
constexpr BlockList kPixArtBlocks[] = {{"transformer_blocks", 28}, {"blocks", 28}};
constexpr BaseModel kLikePixArt[] = {BaseModel::sana};
constexpr View kPixArtMetadata[] = {"pixart"};

constexpr View kSanaMarks[] = {"_ff_conv_inverted", "_ff_conv_depth", "_ff_conv_point", "_mlp_inverted_conv",
  "_mlp_depth_conv", "_mlp_point_conv"};
constexpr View kSanaNames[] = {"^transformer_blocks_#_attn1_", "^transformer_blocks_#_attn2_"};
constexpr View kSanaNever[] = {"^transformer_blocks_#_ff_net_"};
constexpr int64_t kSanaWidths[] = {1152, 2240};
constexpr BlockList kSanaBlocks[] = {{"transformer_blocks", 60}, {"blocks", 60}};
constexpr View kSanaMetadata[] = {"sana"};

constexpr int64_t kCogView4Widths[] = {4096}, kCogView3Widths[] = {2560}, kCogVideoXWidths[] = {1920, 3072};
constexpr BlockList kCogView4Blocks[] = {{"transformer_blocks", 28}}, kCogView3Blocks[] = {{"transformer_blocks", 30}},
  kCogVideoXBlocks[] = {{"transformer_blocks", 42}};
constexpr BaseModel kLikeCogVideoX[] = {BaseModel::mochi};
constexpr View kCogView4Metadata[] = {"cogview4"}, kCogView3Metadata[] = {"cogview3"},
  kCogVideoXMetadata[] = {"cogvideox"};

// ---- `blocks` -------------------------------------------------------------------------------------------------------

constexpr View kWanMarks[] = {"^blocks_#_self_attn_q$", "^blocks_#_self_attn_k$", "^blocks_#_self_attn_v$",
  "^blocks_#_self_attn_o$", "^blocks_#_cross_attn_q$", "^blocks_#_cross_attn_k$", "^blocks_#_cross_attn_v$",
  "^blocks_#_cross_attn_o$", "^blocks_#_cross_attn_k_img$", "^blocks_#_cross_attn_v_img$", "^blocks_#_ffn_",
  "^vace_blocks_#", "^condition_embedder_time_", "^condition_embedder_text_", "^condition_embedder_image_"};
constexpr View kWanNames[] = {"^blocks_#_attn1_", "^blocks_#_attn2_"};
constexpr int64_t kWanWidths[] = {1536, 2048, 3072, 5120};
constexpr LayerSize kWanSizes[] = {{"^blocks_#_attn1_", 1, 1}, {"^blocks_#_attn2_to_q$", 1, 1},
  {"^blocks_#_self_attn_", 1, 1}, {"^blocks_#_cross_attn_q$", 1, 1}};
constexpr BlockList kWanBlocks[] = {{"blocks", 40}, {"vace_blocks", 40}};
constexpr View kWanMetadata[] = {"wan"};

constexpr View kAnimaMarks[] = {"^blocks_#_self_attn_q_proj", "^blocks_#_self_attn_k_proj", "^blocks_#_self_attn_v_proj",
  "^blocks_#_self_attn_output_proj", "^blocks_#_cross_attn_q_proj", "^blocks_#_cross_attn_k_proj",
  "^blocks_#_cross_attn_v_proj", "^blocks_#_cross_attn_output_proj", "^blocks_#_mlp_layer", "^blocks_#_adaln_modulation_",
  "^llm_adapter", "^text_conditioner", "^transformer_blocks_#_norm1_linear_", "^transformer_blocks_#_norm2_linear_",
  "^transformer_blocks_#_norm3_linear_"};
constexpr View kAnimaNames[] = {"^transformer_blocks_#_attn1_", "^transformer_blocks_#_attn2_"};
constexpr int64_t kAnimaWidths[] = {2048, 5120};
constexpr LayerSize kAnimaSizes[] = {{"^transformer_blocks_#_attn1_", 1, 1}, {"^transformer_blocks_#_attn2_to_q$", 1, 1},
  {"^transformer_blocks_#_attn2_to_out_", 1, 1}, {"^transformer_blocks_#_attn2_to_k$", 1, 0, 1024},
  {"^transformer_blocks_#_attn2_to_v$", 1, 0, 1024}, {"^blocks_#_cross_attn_k_proj$", 1, 0, 1024}, {"^blocks_#_self_attn_", 1, 1}};
constexpr BlockList kAnimaBlocks[] = {{"blocks", 36}, {"transformer_blocks", 36}};
constexpr View kAnimaMetadata[] = {"anima", "cosmospredict2"};

constexpr View kHunyuanDitMarks[] = {"^blocks_#_skip_linear", "^blocks_#_ff_net_", "^blocks_#_attn1_Wqkv",
  "^blocks_#_attn2_kv_proj"};
constexpr View kHunyuanDitNames[] = {"^blocks_#_attn1_", "^blocks_#_attn2_"};
constexpr int64_t kHunyuanDitWidths[] = {1408};
constexpr LayerSize kHunyuanDitSizes[] = {{"^blocks_#_attn1_", 1, 1}, {"^blocks_#_attn2_to_q$", 1, 1}};
constexpr BlockList kHunyuanDitBlocks[] = {{"blocks", 40}};
constexpr View kHunyuanDitMetadata[] = {"hunyuandit"};

constexpr View kKrea2Marks[] = {"^blocks_#_attn_wq", "^blocks_#_attn_wk", "^blocks_#_attn_wv", "^blocks_#_attn_wo",
  "^txtfusion", "^text_fusion", "^transformer_blocks_#_attn_to_gate"};
constexpr View kKrea2Names[] = {"^transformer_blocks_#_attn_to_q$", "^transformer_blocks_#_attn_to_out_"};
constexpr int64_t kKrea2Widths[] = {6144};
constexpr LayerSize kKrea2Sizes[] = {{"^transformer_blocks_#_attn_to_q$", 1, 1},
  {"^transformer_blocks_#_attn_to_out_", 1, 1}};
constexpr BlockList kKrea2Blocks[] = {{"blocks", 28}, {"transformer_blocks", 28}};
constexpr View kKrea2Metadata[] = {"krea2"};

constexpr View kKandinskyMarks[] = {"visual_transformer_blocks_#", "text_transformer_blocks_#"};
constexpr BlockList kKandinskyBlocks[] = {{"visual_transformer_blocks", 60}, {"text_transformer_blocks", 4}};
constexpr View kKandinskyMetadata[] = {"kandinsky5"};

// ---- `layers` -------------------------------------------------------------------------------------------------------

constexpr BlockList kZImageBlocks[] = {{"layers", 30}, {"noise_refiner", 2}, {"context_refiner", 2}};
constexpr View kZImageMarks[] = {"^all_x_embedder", "^all_final_layer"};
constexpr View kZImageNames[] = {"^layers_#_attention_", "^layers_#_feed_forward_w", "^layers_#_adaLN_modulation",
  "^noise_refiner_#_", "^context_refiner_#_"};
constexpr View kZImageNever[] = {"_attn_to_", "_feed_forward_linear_"};
constexpr int64_t kZImageWidths[] = {3840}, kLumina2Widths[] = {2304}, kIdeogramWidths[] = {4608};
constexpr LayerSize kLayersSizes[] = {{"^layers_#_attention_to_", 0, 1}, {"^layers_#_attention_qkv$", 0, 1},
  {"^layers_#_attention_out$", 1, 1}, {"^layers_#_attention_o$", 1, 1}, {"^layers_#_feed_forward_w1$", 0, 1},
  {"^layers_#_feed_forward_w2$", 1, 0}, {"^layers_#_feed_forward_w3$", 0, 1},
  {"^noise_refiner_#_attention_to_", 0, 1}, {"^noise_refiner_#_attention_qkv$", 0, 1},
  {"^context_refiner_#_attention_to_", 0, 1}, {"^context_refiner_#_attention_qkv$", 0, 1},
  {"^noise_refiner_#_feed_forward_w1$", 0, 1}, {"^context_refiner_#_feed_forward_w1$", 0, 1},
  {"^noise_refiner_#_feed_forward_w2$", 1, 0}, {"^context_refiner_#_feed_forward_w2$", 1, 0},
  {"^layers_#_attn_to_", 0, 1}, {"^layers_#_attn1_", 0, 1}, {"^layers_#_attn2_to_q$", 0, 1},
  {"^layers_#_feed_forward_linear_1$", 0, 1}, {"^layers_#_feed_forward_linear_2$", 1, 0},
  {"^layers_#_feed_forward_linear_3$", 0, 1}};
constexpr View kZImageMetadata[] = {"zimage"};

constexpr BlockList kLumina2Blocks[] = {{"layers", 26}, {"noise_refiner", 2}, {"context_refiner", 2}};
constexpr View kLumina2Marks[] = {"^layers_#_attn_to_", "^noise_refiner_#_attn_", "^context_refiner_#_attn_"};
constexpr View kLumina2Names[] = {"^layers_#_attention_", "^layers_#_feed_forward_", "^layers_#_adaLN_modulation",
  "^noise_refiner_#_", "^context_refiner_#_"};
constexpr View kLumina2Metadata[] = {"lumina"};

constexpr View kLuminaNextMarks[] = {"^layers_#_attn1_", "^layers_#_attn2_"};
constexpr View kLuminaNextNames[] = {"^layers_#_feed_forward_"};
constexpr BlockList kLuminaNextBlocks[] = {{"layers", 32}};
constexpr View kLuminaNextMetadata[] = {"luminanext"};

constexpr View kIdeogramMarks[] = {"^layers_#_adaln_modulation", "^layers_#_attention_o$"};
constexpr View kIdeogramNames[] = {"^layers_#_attention_", "^layers_#_feed_forward_w"};
constexpr BlockList kIdeogramBlocks[] = {{"layers", 34}};
constexpr View kIdeogramMetadata[] = {"ideogram4"};

// ---- UNets ----------------------------------------------------------------------------------------------------------

// Kolors: SDXL's UNet, and beside it a layer for the text of another encoder.
constexpr View kKolorsMarks[] = {"encoder_hid_proj"};
constexpr View kKolorsMetadata[] = {"kolors"};
constexpr View kAnimateDiffMarks[] = {"motion_modules", "temporal_transformer_transformer_blocks"};
constexpr View kAnimateDiffMetadata[] = {"animatediff"};

constexpr BaseModelRow kRows[] = {
  {.model = BaseModel::flux2, .name = "flux2", .label = "FLUX.2", .components = kTransformer,
   .evidence = {.marks = kFlux2Marks, .names_at_width = kFlux2Names, .widths = kFlux2Widths, .sizes = kFlux2Sizes,
                .blocks = kFlux2Blocks, .never = kFlux2Never, .alike = kLikeFlux2},
   .metadata = kFlux2Metadata},
  {.model = BaseModel::flux2_klein, .name = "flux2-klein", .label = "FLUX.2 klein", .components = kTransformer,
   .evidence = {.marks = kFlux2Marks, .names_at_width = kFlux2Names, .widths = kKleinWidths, .sizes = kFlux2Sizes,
                .blocks = kKleinBlocks, .never = kFlux2Never},
   .metadata = kKleinMetadata},
  {.model = BaseModel::chroma, .name = "chroma", .label = "Chroma", .components = kTransformer,
   .evidence = {.marks = kChromaMarks, .names_at_width = kTwoStreams, .widths = kFluxWidths, .sizes = kFluxSizes,
                .blocks = kChromaBlocks, .never = kChromaNever},
   .metadata = kChromaMetadata},
  {.model = BaseModel::qwen_image, .name = "qwen-image", .label = "Qwen-Image", .components = kTransformer,
   .evidence = {.marks = kQwenMarks, .names_at_width = kQwenNames, .widths = kQwenWidths, .sizes = kQwenSizes,
                .blocks = kQwenBlocks, .never = kQwenNever},
   .metadata = kQwenMetadata},
  {.model = BaseModel::z_image, .name = "z-image", .label = "Z-Image", .components = kTransformer,
   .evidence = {.marks = kZImageMarks, .names = kZImageNames, .widths = kZImageWidths, .sizes = kLayersSizes,
                .blocks = kZImageBlocks, .never = kZImageNever},
   .metadata = kZImageMetadata},
  {.model = BaseModel::lumina2, .name = "lumina2", .label = "Lumina 2", .components = kTransformer,
   .evidence = {.marks = kLumina2Marks, .names = kLumina2Names, .widths = kLumina2Widths, .sizes = kLayersSizes,
                .blocks = kLumina2Blocks},
   .metadata = kLumina2Metadata},
  {.model = BaseModel::wan, .name = "wan", .label = "Wan", .components = kTransformer,
   .evidence = {.marks = kWanMarks, .names = kWanNames, .widths = kWanWidths, .sizes = kWanSizes,
                .blocks = kWanBlocks},
   .metadata = kWanMetadata},
  {.model = BaseModel::hunyuan_video, .name = "hunyuan-video", .label = "HunyuanVideo", .components = kTransformer,
   .evidence = {.marks = kHunyuanMarks, .names_at_width = kTwoStreams, .widths = kHunyuanVideoWidths,
                .sizes = kFluxSizes, .blocks = kHunyuanBlocks, .never = kHunyuanNever, .alike = kLikeHunyuanVideo},
   .metadata = kHunyuanVideoMetadata},
  {.model = BaseModel::hunyuan_video15, .name = "hunyuan-video-1.5", .label = "HunyuanVideo 1.5",
   .components = kTransformer,
   .evidence = {.marks = kHunyuanMarks, .names_at_width = kTwoStreams, .widths = kHunyuanVideo15Widths,
                .sizes = kFluxSizes, .blocks = kHunyuanVideo15Blocks, .never = kHunyuanVideo15Never},
   .metadata = kHunyuanVideo15Metadata},
  {.model = BaseModel::hunyuan_image, .name = "hunyuan-image", .label = "HunyuanImage", .components = kTransformer,
   .evidence = {.marks = kHunyuanMarks, .names_at_width = kTwoStreams, .widths = kHunyuanImageWidths,
                .sizes = kFluxSizes, .blocks = kHunyuanBlocks, .never = kHunyuanNever},
   .metadata = kHunyuanImageMetadata},
  {.model = BaseModel::ltx_video, .name = "ltx-video", .label = "LTX-Video", .components = kTransformer,
   .evidence = {.marks = kLtxMarks, .names_at_width = kAttn12, .widths = kLtxWidths, .sizes = kAttn12Sizes,
                .blocks = kLtxBlocks, .never = kNoAttn, .together = kBothAttentions, .alike = kLikeLtx},
   .metadata = kLtxMetadata},
  {.model = BaseModel::ltx2, .name = "ltx-2", .label = "LTX-2", .components = kTransformer,
   .evidence = {.marks = kLtx2Marks, .names_at_width = kAttn12, .widths = kLtx2Widths, .sizes = kAttn12Sizes,
                .blocks = kLtxBlocks, .never = kNoAttn, .together = kBothAttentions},
   .metadata = kLtx2Metadata},
  {.model = BaseModel::hidream, .name = "hidream", .label = "HiDream", .components = kTransformer,
   .evidence = {.marks = kHiDreamMarks, .blocks = kHiDreamBlocks}, .metadata = kHiDreamMetadata},
  {.model = BaseModel::auraflow, .name = "auraflow", .label = "AuraFlow", .components = kTransformer,
   .evidence = {.marks = kAuraFlowMarks, .names_at_width = kAuraFlowNames, .widths = kFluxWidths,
                .sizes = kAuraFlowSizes, .blocks = kAuraFlowBlocks, .never = kAuraFlowNever},
   .metadata = kAuraFlowMetadata},
  {.model = BaseModel::pixart, .name = "pixart", .label = "PixArt", .components = kTransformer,
   .evidence = {.marks = kPixArtMarks, .names_at_width = kAttn12, .widths = kPixArtWidths, .sizes = kAttn12Sizes,
                .blocks = kPixArtBlocks, .never = kNoAttn, .alike = kLikePixArt},
   .metadata = kPixArtMetadata},
  {.model = BaseModel::sana, .name = "sana", .label = "Sana", .components = kTransformer,
   .evidence = {.marks = kSanaMarks, .names_at_width = kSanaNames, .widths = kSanaWidths, .sizes = kAttn12Sizes,
                .blocks = kSanaBlocks, .never = kSanaNever, .together = kBothAttentions},
   .metadata = kSanaMetadata},
  {.model = BaseModel::cogview4, .name = "cogview4", .label = "CogView4", .components = kTransformer,
   .evidence = {.names_at_width = kAttn1, .widths = kCogView4Widths, .sizes = kAttn12Sizes, .blocks = kCogView4Blocks,
                .never = kNoAttn2},
   .metadata = kCogView4Metadata},
  {.model = BaseModel::cogview3, .name = "cogview3", .label = "CogView3", .components = kTransformer,
   .evidence = {.names_at_width = kAttn1, .widths = kCogView3Widths, .sizes = kAttn12Sizes, .blocks = kCogView3Blocks,
                .never = kNoAttn2},
   .metadata = kCogView3Metadata},
  {.model = BaseModel::cogvideox, .name = "cogvideox", .label = "CogVideoX", .components = kTransformer,
   .evidence = {.names_at_width = kAttn1, .widths = kCogVideoXWidths, .sizes = kAttn12Sizes,
                .blocks = kCogVideoXBlocks, .never = kNoAttn2, .alike = kLikeCogVideoX},
   .metadata = kCogVideoXMetadata},
  {.model = BaseModel::anima, .name = "anima", .label = "Anima", .components = kTransformer,
   .evidence = {.marks = kAnimaMarks, .names_at_width = kAnimaNames, .widths = kAnimaWidths, .sizes = kAnimaSizes,
                .blocks = kAnimaBlocks, .together = kBothAttentions},
   .metadata = kAnimaMetadata},
  {.model = BaseModel::mochi, .name = "mochi", .label = "Mochi", .components = kTransformer,
   .evidence = {.marks = kMochiMarks, .names_at_width = kMochiNames, .widths = kMochiWidths, .sizes = kMochiSizes,
                .blocks = kMochiBlocks},
   .metadata = kMochiMetadata},
  {.model = BaseModel::hunyuan_dit, .name = "hunyuan-dit", .label = "Hunyuan-DiT", .components = kTransformer,
   .evidence = {.marks = kHunyuanDitMarks, .names = kHunyuanDitNames, .widths = kHunyuanDitWidths,
                .sizes = kHunyuanDitSizes, .blocks = kHunyuanDitBlocks},
   .metadata = kHunyuanDitMetadata},
  {.model = BaseModel::lumina_next, .name = "lumina-next", .label = "Lumina-Next", .components = kTransformer,
   .evidence = {.marks = kLuminaNextMarks, .names = kLuminaNextNames, .widths = kLumina2Widths, .sizes = kLayersSizes,
                .blocks = kLuminaNextBlocks},
   .metadata = kLuminaNextMetadata},
  {.model = BaseModel::kandinsky5, .name = "kandinsky5", .label = "Kandinsky 5", .components = kTransformer,
   .evidence = {.marks = kKandinskyMarks, .blocks = kKandinskyBlocks}, .metadata = kKandinskyMetadata},
  {.model = BaseModel::ideogram4, .name = "ideogram4", .label = "Ideogram 4", .components = kTransformer,
   .evidence = {.marks = kIdeogramMarks, .names = kIdeogramNames, .widths = kIdeogramWidths, .sizes = kLayersSizes,
                .blocks = kIdeogramBlocks},
   .metadata = kIdeogramMetadata},
  {.model = BaseModel::krea2, .name = "krea2", .label = "Krea 2", .components = kTransformer,
   .evidence = {.marks = kKrea2Marks, .names_at_width = kKrea2Names, .widths = kKrea2Widths, .sizes = kKrea2Sizes,
                .blocks = kKrea2Blocks}, .metadata = kKrea2Metadata},
  {.model = BaseModel::kolors, .name = "kolors", .label = "Kolors", .components = kUNet,
   .evidence = {.marks = kKolorsMarks, .never = kSdxlNever}, .cross_attention = kSdxlCrossAttention,
   .metadata = kKolorsMetadata},
  {.model = BaseModel::animatediff, .name = "animatediff", .label = "AnimateDiff's motion modules",
   .components = kUNet, .evidence = {.marks = kAnimateDiffMarks}, .metadata = kAnimateDiffMetadata},
};
// clang-format on

}  // namespace

std::span<const BaseModelRow> foreign_models() { return kRows; }

}  // namespace lora
