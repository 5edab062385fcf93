// Which base model a file is told to be for: by names, counts, widths and metadata, for it and against it.
#include <gmock/gmock.h>

#include "core/text.h"
#include "dialects/base_model_of.h"
#include "dialects/dialect.h"
#include "dialects/spell.h"
#include "names/base_model.h"
#include "support/compare.h"

namespace lora {

namespace {

using testing::HasSubstr;

struct Layer {
  const char* path;
  int64_t rows, columns;
};

// A pair of factors of rank 1, without memory for its numbers.
void add(StateDict& file, const std::string& down, const std::string& up, const Layer& layer) {
  file.set(down, at::zeros({1}).expand({1, layer.columns}));
  file.set(up, at::zeros({1}).expand({layer.rows, 1}));
}

const std::vector<std::string> kSpellings = {"transformer.", "diffusion_model.", "base_model.model.",
                                             "lora_unet_",   "lycoris_",         "bare"};

StateDict file_of(const std::vector<Layer>& layers, const std::string& spelling) {
  StateDict file;
  for (const auto& layer : layers) {
    bool flat = spelling.ends_with('_');
    auto path = flat ? replace_all(layer.path, ".", "_") : std::string(layer.path);
    auto key = (spelling == "bare" ? "" : spelling) + path;
    if (flat)
      add(file, key + ".lora_down.weight", key + ".lora_up.weight", layer);
    else
      add(file, key + ".lora_A.weight", key + ".lora_B.weight", layer);
  }
  return file;
}

LoraFile read(const std::vector<Layer>& layers, const std::string& spelling, const LoraMetadata& metadata = {},
              BaseModel given = BaseModel::unknown) {
  auto file = file_of(layers, spelling);
  file.metadata = metadata;
  return to_lora_file(file, "", "test", {}, given);
}

}  // namespace

struct Model {
  const char* name;
  BaseModel wanted;
  std::vector<Layer> layers;
};

void PrintTo(const Model& model, std::ostream* out) { *out << model.name; }

class ToldModels : public testing::TestWithParam<Model> {};

// In each spelling that can say the names, the same.
TEST_P(ToldModels, InEverySpelling) {
  const auto& [name, wanted, layers] = GetParam();
  for (const auto& spelling : kSpellings) {
    // HunyuanVideo's own names differ from Flux' in dots alone.
    if (spelling.ends_with('_') && std::string(name) == "HunyuanVideoNativeAttention") continue;
    auto file = read(layers, spelling);
    EXPECT_EQ(file.base_model, wanted) << spelling << ": " << to_string(file.base_model) << ": " << file.known_by;
    EXPECT_EQ(file.layers.empty(), false);
    if (auto* row = row_of(file.base_model); row && row->is_foreign()) {
      for (auto target : {Target::diffusers, Target::peft, Target::kohya, Target::comfy})
        EXPECT_THAT(error_of(ErrorKind::unsupported, [&] { spell(file.layers, target, file.base_model); }),
                    HasSubstr(std::string(row->label)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Published, ToldModels,
    testing::Values(
        Model{"FluxNative",
              BaseModel::flux,
              {{"double_blocks.0.img_attn.qkv", 9216, 3072}, {"single_blocks.37.linear1", 21504, 3072}}},
        Model{"FluxMods", BaseModel::flux, {{"double_blocks.0.img_mod.lin", 18432, 3072}}},
        Model{"FluxLinear2", BaseModel::flux, {{"single_blocks.7.linear2", 3072, 15360}}},
        Model{"FluxDiffusers",
              BaseModel::flux,
              {{"transformer_blocks.0.attn.to_q", 3072, 3072}, {"single_transformer_blocks.0.attn.to_q", 3072, 3072}}},
        Model{"FluxSingleMlp", BaseModel::flux, {{"single_transformer_blocks.3.proj_mlp", 12288, 3072}}},
        // A Flux file with the first blocks' attention alone looks like one for FLUX.2 klein, and for Qwen-Image.
        Model{"FluxOrKlein", BaseModel::unknown, {{"double_blocks.0.img_attn.qkv", 9216, 3072}}},
        Model{"FluxOrQwen", BaseModel::unknown, {{"transformer_blocks.0.attn.to_q", 3072, 3072}}},
        Model{"ChromaGuidance",
              BaseModel::chroma,
              {{"distilled_guidance_layer.layers.0.in_layer", 5120, 5120}, {"double_blocks.0.img_mlp.0", 12288, 3072}}},
        Model{"Sd3", BaseModel::sd3, {{"transformer_blocks.0.attn.to_q", 1536, 1536}}},
        Model{"Sd3Large", BaseModel::sd3, {{"transformer_blocks.37.ff.net.0.proj", 9728, 2432}}},
        Model{"Sd3Native", BaseModel::sd3, {{"joint_blocks.0.x_block.attn.qkv", 4608, 1536}}},
        Model{"Sd3Tiny", BaseModel::sd3, {{"transformer_blocks.0.attn.to_q", 48, 48}}},
        Model{"Flux2Native",
              BaseModel::flux2,
              {{"double_blocks.0.img_attn.qkv", 18432, 6144}, {"single_blocks.47.linear1", 55296, 6144}}},
        Model{"Flux2Diffusers",
              BaseModel::flux2,
              {{"transformer_blocks.0.attn.to_q", 6144, 6144},
               {"single_transformer_blocks.0.attn.to_qkv_mlp_proj", 55296, 6144}}},
        Model{"Flux2Attention", BaseModel::flux2, {{"transformer_blocks.7.attn.add_k_proj", 6144, 6144}}},
        Model{"Klein4B",
              BaseModel::flux2_klein,
              {{"double_blocks.0.img_attn.qkv", 9216, 3072}, {"single_blocks.0.linear1", 27648, 3072}}},
        Model{"Klein4BLinear2", BaseModel::flux2_klein, {{"single_blocks.19.linear2", 3072, 12288}}},
        Model{"Klein4BMlp", BaseModel::flux2_klein, {{"double_blocks.4.txt_mlp.0", 18432, 3072}}},
        Model{"Klein9B", BaseModel::flux2_klein, {{"double_blocks.7.img_attn.proj", 4096, 4096}}},
        Model{"Klein9BDiffusers", BaseModel::flux2_klein, {{"transformer_blocks.0.ff.linear_in", 24576, 4096}}},
        Model{"Klein9BOut",
              BaseModel::flux2_klein,
              {{"single_transformer_blocks.0.attn.to_out", 4096, 16384},
               {"transformer_blocks.0.ff.linear_out", 4096, 12288}}},
        Model{"QwenImage",
              BaseModel::qwen_image,
              {{"transformer_blocks.0.attn.to_q", 3072, 3072}, {"transformer_blocks.0.img_mod.1", 18432, 3072}}},
        Model{"QwenImageMlp", BaseModel::qwen_image, {{"transformer_blocks.3.txt_mlp.net.0.proj", 12288, 3072}}},
        Model{"QwenImageAttention", BaseModel::qwen_image, {{"transformer_blocks.59.attn.add_v_proj", 3072, 3072}}},
        Model{"HunyuanVideoNative",
              BaseModel::hunyuan_video,
              {{"double_blocks.0.img_attn_qkv", 9216, 3072}, {"double_blocks.0.img_mlp.fc1", 12288, 3072}}},
        Model{"HunyuanVideoNativeAttention",
              BaseModel::hunyuan_video,
              {{"double_blocks.0.img_attn_qkv", 9216, 3072}, {"single_blocks.0.linear1", 21504, 3072}}},
        Model{"HunyuanVideoMod", BaseModel::hunyuan_video, {{"single_blocks.5.modulation.linear", 9216, 3072}}},
        Model{
            "HunyuanVideoDiffusers",
            BaseModel::hunyuan_video,
            {{"transformer_blocks.19.attn.to_q", 3072, 3072}, {"single_transformer_blocks.39.attn.to_q", 3072, 3072}}},
        Model{"HunyuanVideo15", BaseModel::hunyuan_video15, {{"transformer_blocks.53.attn.to_q", 2048, 2048}}},
        Model{"HunyuanVideo15TimeEmbed",
              BaseModel::hunyuan_video15,
              {{"time_embed.timestep_embedder.linear_1", 2048, 256}, {"transformer_blocks.0.attn.to_q", 2048, 2048}}},
        Model{"HunyuanImage",
              BaseModel::hunyuan_image,
              {{"double_blocks.0.img_attn.qkv", 10752, 3584}, {"single_blocks.0.linear2", 3584, 17920}}},
        Model{"ZImage",
              BaseModel::z_image,
              {{"layers.0.attention.to_q", 3840, 3840}, {"layers.0.feed_forward.w1", 10240, 3840}}},
        Model{"ZImageNative", BaseModel::z_image, {{"layers.29.attention.qkv", 11520, 3840}}},
        Model{"ZImageRefiner", BaseModel::z_image, {{"noise_refiner.0.feed_forward.w2", 3840, 10240}}},
        Model{"Lumina2", BaseModel::lumina2, {{"layers.0.attn.to_k", 768, 2304}}},
        Model{"Lumina2Native", BaseModel::lumina2, {{"layers.25.attention.qkv", 3840, 2304}}},
        Model{"LuminaNext", BaseModel::lumina_next, {{"layers.0.attn1.to_q", 2304, 2304}}},
        Model{"Ideogram", BaseModel::ideogram4, {{"layers.33.attention.to_v", 4608, 4608}}},
        Model{"Wan", BaseModel::wan, {{"blocks.0.self_attn.q", 1536, 1536}, {"blocks.0.ffn.0", 8960, 1536}}},
        Model{"Wan14B", BaseModel::wan, {{"blocks.39.cross_attn.v_img", 5120, 5120}}},
        Model{
            "WanDiffusers", BaseModel::wan, {{"blocks.0.attn2.to_k", 5120, 5120}, {"blocks.0.attn1.to_q", 5120, 5120}}},
        Model{"WanDiffusersFfn", BaseModel::wan, {{"blocks.0.ffn.net.0.proj", 13824, 5120}}},
        Model{"Anima",
              BaseModel::anima,
              {{"blocks.0.self_attn.q_proj", 2048, 2048}, {"blocks.0.cross_attn.k_proj", 2048, 1024}}},
        Model{"AnimaMlp", BaseModel::anima, {{"blocks.27.mlp.layer1", 8192, 2048}}},
        Model{"AnimaDiffusers",
              BaseModel::anima,
              {{"transformer_blocks.0.attn2.to_k", 2048, 1024}, {"transformer_blocks.0.attn1.to_k", 2048, 2048}}},
        Model{"LtxVideo",
              BaseModel::ltx_video,
              {{"transformer_blocks.0.attn1.to_q", 2048, 2048},
               {"transformer_blocks.0.attn2.to_q", 2048, 2048},
               {"transformer_blocks.0.attn2.to_k", 2048, 2048},
               {"transformer_blocks.0.attn1.to_k", 2048, 2048}}},
        Model{"LtxVideo13B",
              BaseModel::ltx_video,
              {{"transformer_blocks.47.attn1.to_q", 4096, 4096}, {"transformer_blocks.47.attn2.to_q", 4096, 4096}}},
        Model{"Ltx2",
              BaseModel::ltx2,
              {{"transformer_blocks.0.attn1.to_q", 4096, 4096}, {"transformer_blocks.0.audio_attn1.to_q", 2048, 2048}}},
        Model{"CogView4",
              BaseModel::cogview4,
              {{"transformer_blocks.0.attn1.to_q", 4096, 4096}, {"transformer_blocks.0.attn1.to_k", 4096, 4096}}},
        Model{"CogVideoX", BaseModel::cogvideox, {{"transformer_blocks.29.attn1.to_q", 1920, 1920}}},
        Model{"PixArt",
              BaseModel::pixart,
              {{"transformer_blocks.0.attn1.to_q", 1152, 1152}, {"transformer_blocks.0.attn2.to_q", 1152, 1152}}},
        Model{"PixArtNative", BaseModel::pixart, {{"blocks.0.cross_attn.kv_linear", 2304, 1152}}},
        Model{"Sana",
              BaseModel::sana,
              {{"transformer_blocks.0.attn1.to_q", 2240, 2240}, {"transformer_blocks.0.attn2.to_q", 2240, 2240}}},
        Model{"HiDream", BaseModel::hidream, {{"double_stream_blocks.0.block.attn1.to_q_t", 2560, 2560}}},
        Model{"AuraFlow", BaseModel::auraflow, {{"joint_transformer_blocks.0.attn.to_q", 3072, 3072}}},
        Model{"AuraFlowSingle",
              BaseModel::auraflow,
              {{"single_transformer_blocks.4.ff.out_projection", 3072, 8192},
               {"single_transformer_blocks.4.attn.to_q", 3072, 3072}}},
        Model{"Mochi", BaseModel::mochi, {{"transformer_blocks.0.attn1.add_k_proj", 3072, 1536}}},
        Model{"HunyuanDit", BaseModel::hunyuan_dit, {{"blocks.0.attn1.to_q", 1408, 1408}}},
        Model{
            "Kandinsky5", BaseModel::kandinsky5, {{"visual_transformer_blocks.0.self_attention.to_query", 1792, 1792}}},
        Model{"Krea2", BaseModel::krea2, {{"blocks.0.attn.wq", 6144, 6144}}},
        // Models that are not known here, with Flux' blocks and embedders of their own.
        Model{"Bria",
              BaseModel::unknown,
              {{"time_embed.timestep_embedder.linear_1", 3072, 256},
               {"time_embed.timestep_embedder.linear_2", 3072, 3072},
               {"context_embedder", 3072, 4096},
               {"x_embedder", 3072, 64},
               {"transformer_blocks.0.norm1.linear", 18432, 3072},
               {"transformer_blocks.0.attn.to_q", 3072, 3072},
               {"transformer_blocks.0.ff.net.0.proj", 12288, 3072},
               {"single_transformer_blocks.37.norm.linear", 9216, 3072},
               {"single_transformer_blocks.37.proj_mlp", 12288, 3072},
               {"single_transformer_blocks.37.attn.to_q", 3072, 3072},
               {"norm_out.linear", 6144, 3072}}},
        Model{"BriaFibo",
              BaseModel::unknown,
              {{"time_embed.timestep_embedder.linear_1", 3072, 256},
               {"caption_projection.0.linear", 1536, 2048},
               {"transformer_blocks.0.norm1.linear", 18432, 3072},
               {"transformer_blocks.0.attn.to_q", 3072, 3072},
               {"single_transformer_blocks.0.proj_out", 3072, 15360}}},
        Model{"BriaAttention",
              BaseModel::unknown,
              {{"time_embed.timestep_embedder.linear_1", 3072, 256},
               {"transformer_blocks.0.attn.to_q", 3072, 3072},
               {"single_transformer_blocks.0.attn.to_q", 3072, 3072}}},
        Model{"LongCatImage",
              BaseModel::unknown,
              {{"time_embed.timestep_embedder.linear_2", 3072, 3072},
               {"context_embedder", 3072, 3584},
               {"transformer_blocks.0.attn.add_q_proj", 3072, 3072},
               {"single_transformer_blocks.0.proj_mlp", 12288, 3072}}},
        Model{"LongCatImageFirstBlocks",
              BaseModel::unknown,
              {{"time_embed.timestep_embedder.linear_2", 3072, 3072}, {"transformer_blocks.0.attn.to_q", 3072, 3072}}},
        Model{"Unheard", BaseModel::unknown, {{"blocks.0.mixer.gate", 640, 640}}}),
    [](const auto& test) { return std::string(test.param.name); });

// UNets' files begin with `unet.`.
TEST(BaseModels, OtherUNetsAreToldApart) {
  auto told = [](const Layer& layer) {
    StateDict file;
    auto key = std::string("unet.") + layer.path;
    add(file, key + ".lora_A.weight", key + ".lora_B.weight", layer);
    return to_lora_file(file, "", "test").base_model;
  };
  auto block = std::string("down_blocks.1.attentions.0.transformer_blocks.0.");
  EXPECT_EQ(told({(block + "attn2.to_k").c_str(), 640, 2048}), BaseModel::sdxl);
  EXPECT_EQ(told({(block + "attn1.to_q").c_str(), 640, 640}), BaseModel::unknown);
  EXPECT_EQ(told({"encoder_hid_proj", 2048, 4096}), BaseModel::kolors);
  EXPECT_EQ(told({"down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q", 320, 320}), BaseModel::animatediff);
  StateDict original;
  auto key =
      std::string("down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.");
  add(original, key + "processor.to_q_lora.down.weight", key + "processor.to_q_lora.up.weight", {"", 320, 320});
  EXPECT_EQ(to_lora_file(original, "", "test").base_model, BaseModel::animatediff);
}

TEST(BaseModels, TheMetadataChoosesAmongWhatTheLayersLeave) {
  const std::vector<Layer> attention = {{"transformer_blocks.0.attn.to_q", 3072, 3072}};
  auto told = [&](const std::vector<Layer>& layers, const LoraMetadata& metadata) {
    return read(layers, "transformer.", metadata).base_model;
  };
  for (auto [version, model] : {std::pair("qwen_image", BaseModel::qwen_image),
                                {"flux.1", BaseModel::flux},
                                {"chroma", BaseModel::chroma},
                                {"flux_2_klein_4b", BaseModel::flux2_klein},
                                {"hunyuan_video", BaseModel::hunyuan_video},
                                {"wan", BaseModel::unknown},
                                {"sd_v1-5", BaseModel::unknown}})
    EXPECT_EQ(told(attention, {{"ss_base_model_version", version}}), model) << version;
  EXPECT_EQ(told(attention, {{"modelspec.architecture", "Qwen-Image-Edit-2511/lora"}}), BaseModel::qwen_image);
  EXPECT_EQ(told(attention, {{"ss_network_module", "networks.lora_qwen_image"}}), BaseModel::qwen_image);
  EXPECT_EQ(told({{"blocks.0.self_attn.q", 1536, 1536}}, {{"ss_base_model_version", "sd_1.5"}}), BaseModel::wan);
}

// Kolors has SDXL's UNet, so that the layers of its files are those of SDXL's.
TEST(BaseModels, TheMetadataChoosesAmongUNetsThatLookAlike) {
  const LoraMetadata kolors = {{"ss_base_model_version", "kolors"}}, none;
  const Layer cross = {"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 640, 2048};
  const Layer deep = {"down_blocks.2.attentions.0.transformer_blocks.2.attn1.to_q", 1280, 1280};
  const Layer shallow = {"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 640, 640};
  for (const auto& spelling : {"lora_unet_", "diffusion_model.", "base_model.model."}) {
    for (const auto& layer : {cross, deep}) {
      EXPECT_EQ(read({layer}, spelling).base_model, BaseModel::sdxl);
      auto file = read({layer}, spelling, kolors);
      EXPECT_EQ(file.base_model, BaseModel::kolors);
      EXPECT_EQ(file.known_by, "its metadata, among those that its layers can be for");
      EXPECT_EQ(read({layer}, spelling, {}, BaseModel::kolors).base_model, BaseModel::kolors);
      EXPECT_EQ(read({layer}, spelling, kolors, BaseModel::sdxl).base_model, BaseModel::sdxl);
    }
    EXPECT_EQ(read({shallow}, spelling).base_model, BaseModel::unknown);
    EXPECT_EQ(read({shallow}, spelling, kolors).base_model, BaseModel::kolors);
  }
  // The same of two base models of one pipeline.
  const LoraMetadata refiner = {{"modelspec.architecture", "stable-diffusion-xl-v1-refiner"}};
  const Layer refiners = {"down_blocks.1.attentions.0.transformer_blocks.2.attn1.to_q", 768, 768};
  EXPECT_EQ(read({refiners}, "lora_unet_", refiner).base_model, BaseModel::sdxl_refiner);
  EXPECT_EQ(read({cross}, "lora_unet_", refiner).base_model, BaseModel::sdxl);
}

TEST(BaseModels, TheMetadataChoosesNoUNetThatTheLayersRuleOut) {
  const LoraMetadata kolors = {{"ss_base_model_version", "kolors"}};
  auto told = [&](const Layer& layer) { return read({layer}, "lora_unet_", kolors).base_model; };
  EXPECT_EQ(told({"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 640, 768}), BaseModel::sd1);
  EXPECT_EQ(told({"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", 320, 320}), BaseModel::unknown);
  // It has one text encoder, a language model.
  auto file = file_of({{"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 640, 2048}}, "lora_unet_");
  const std::string text = "lora_te2_text_model_encoder_layers_0_mlp_fc1";
  add(file, text + ".lora_down.weight", text + ".lora_up.weight", {"", 5120, 1280});
  file.metadata = kolors;
  EXPECT_EQ(to_lora_file(file, "", "test").base_model, BaseModel::sdxl);
}

TEST(BaseModels, TheNameOfAFamilyContradictsNoModelOfIt) {
  struct Row {
    const char* value;
    BaseModel model;
    bool another;
  };
  for (auto [value, model, another] : {Row{"networks.lora_flux_2", BaseModel::flux2_klein, false},
                                       {"flux2", BaseModel::flux2_klein, false},
                                       {"flux_2/lora", BaseModel::flux2_klein, false},
                                       {"Flux.2-dev", BaseModel::flux2_klein, true},
                                       {"Flux.2-klein-9b", BaseModel::flux2_klein, false},
                                       {"Flux.2-klein-9b", BaseModel::flux2, true},
                                       {"networks.lora_flux", BaseModel::flux2, true},
                                       {"networks.lora_flux", BaseModel::flux2_klein, true},
                                       {"flux1", BaseModel::chroma, true},
                                       {"ltx", BaseModel::ltx2, false},
                                       {"hunyuan_video", BaseModel::hunyuan_video15, false},
                                       {"hunyuan_video", BaseModel::hunyuan_image, true},
                                       {"kolors", BaseModel::sdxl, true},
                                       {"sdxl_base_v1-0", BaseModel::kolors, true},
                                       {"sd_v1-5", BaseModel::sdxl, true},
                                       {"sd_v1-5", BaseModel::sd1, false},
                                       {"gpt", BaseModel::sd1, false}}) {
    auto key = std::string_view(value).starts_with("networks.") ? "ss_network_module" : "ss_base_model_version";
    EXPECT_EQ(names_another(model_said_by({{key, value}}), model), another) << value << " and " << to_string(model);
  }
}

TEST(BaseModels, EachNameIsTheModelsThatBeginsSo) {
  for (auto [text, model] : {std::pair("sd_v1", BaseModel::sd1),
                             {"sd_1.5", BaseModel::sd1},
                             {"stable-diffusion-v1/lora", BaseModel::sd1},
                             {"stable-diffusion-v2-768-v/lora", BaseModel::sd2},
                             {"sdxl_base_v1-0", BaseModel::sdxl},
                             {"stable-diffusion-xl-v1-base/lora", BaseModel::sdxl},
                             {"stable-diffusion-xl-v1-refiner", BaseModel::sdxl_refiner},
                             {"sd3m", BaseModel::sd3},
                             {"stable-diffusion-3-medium", BaseModel::sd3},
                             {"flux1", BaseModel::flux},
                             {"flux", BaseModel::flux},
                             {"Flux.1-dev", BaseModel::flux},
                             {"flux_kontext", BaseModel::flux},
                             {"Flux.2-dev", BaseModel::flux2},
                             {"Flux.2-klein-9b", BaseModel::flux2_klein},
                             {"fluxus", BaseModel::unknown},
                             {"animatediff", BaseModel::animatediff},
                             {"anima", BaseModel::anima},
                             {"hunyuan-video-1.5", BaseModel::hunyuan_video15},
                             {"wan2.1", BaseModel::wan},
                             {"Z-Image", BaseModel::z_image},
                             {"ltx2", BaseModel::ltx2},
                             {"", BaseModel::unknown},
                             {"gpt", BaseModel::unknown}})
    EXPECT_EQ(model_named_by(text), model) << text;
}

TEST(BaseModels, TheCallerMayNameOneThatTheFileLeavesOpen) {
  const std::vector<Layer> attention = {{"transformer_blocks.0.attn.to_q", 3072, 3072}};
  EXPECT_EQ(read(attention, "transformer.", {}, BaseModel::flux).base_model, BaseModel::flux);
  EXPECT_EQ(read(attention, "transformer.", {}, BaseModel::chroma).base_model, BaseModel::chroma);
  // The metadata is not heeded then.
  EXPECT_EQ(read(attention, "transformer.", {{"ss_base_model_version", "qwen_image"}}, BaseModel::flux).base_model,
            BaseModel::flux);
  const std::vector<Layer> sdxl = {{"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 640, 2048}};
  EXPECT_THAT(error_of(ErrorKind::usage, [&] { read(sdxl, "lora_unet_", {}, BaseModel::sd1); }),
              AllOf(HasSubstr("SD 1.x was given"), HasSubstr("they are of SDXL")));
  EXPECT_THAT(error_of(ErrorKind::usage, [&] { read(attention, "transformer.", {}, BaseModel::sd3); }),
              HasSubstr("SD 3 was given"));
  EXPECT_THAT(error_of(ErrorKind::usage, [] { parse_base_model("sd9"); }),
              AllOf(HasSubstr("\"sd9\""), HasSubstr("sdxl-refiner"), HasSubstr("qwen-image")));
  for (const auto& name : base_model_names()) EXPECT_EQ(row_of(parse_base_model(name))->name, name);
}

// Nothing is given names of a model that nothing tells.
TEST(BaseModels, WhatIsNotToldIsNotRenamed) {
  auto refused = [](const std::vector<Layer>& layers, const std::string& spelling, Target target) {
    auto file = read(layers, spelling);
    EXPECT_EQ(file.base_model, BaseModel::unknown);
    return error_of(ErrorKind::unsupported, [&] { spell(file.layers, target, file.base_model); });
  };
  const std::vector<Layer> unet = {{"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 640, 640}};
  for (auto target : {Target::kohya, Target::comfy})
    EXPECT_THAT(refused(unet, "diffusion_model.", target), HasSubstr("--base NAME"));
  EXPECT_THAT(refused({{"blocks.0.mixer.gate", 640, 640}}, "diffusion_model.", Target::diffusers),
              AllOf(HasSubstr("blocks.0.mixer.gate"), HasSubstr("--base NAME")));
  // Names that kohya's file has are kept, those of diffusers and native ones.
  for (const char* name : {"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
                           "lora_unet_input_blocks_1_0_in_layers_2", "lora_unet_output_blocks_2_1_conv"}) {
    StateDict file;
    add(file, std::string(name) + ".lora_down.weight", std::string(name) + ".lora_up.weight", {"", 640, 640});
    auto layers = to_lora_file(file, "", "test").layers;
    for (const auto& spelled : spell(layers, Target::kohya, BaseModel::unknown))
      EXPECT_TRUE(spelled.key.starts_with(std::string(name) + ".")) << spelled.key;
  }
}

}  // namespace lora
