#include "checkpoints/single_file.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "io/mapped_file.h"
#include "lora/autoencoders.h"
#include "lora/denoisers.h"
#include "lora/error.h"
#include "lora/text_encoders.h"
#include "models/errors.h"
#include "models/reference_model.h"
#include "support/folder.h"

namespace lora {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

namespace {

constexpr const char* kTiny[] = {"sd1", "sd2", "sdxl", "sdxl_refiner", "sd3", "sd35"};
constexpr const char* kFullSize[] = {"sd15", "sd21", "sdxl", "sdxl_refiner", "sd3", "sd35_medium", "sd35_large"};

// A checkpoint as tools/reference/make_single_file.py lists it, its tensors made by `make`.
struct Listed {
  json data;
  StateDict file;

  Listed(const std::string& name, reference::Make make) : data(reference::read("single_file/" + name + ".json")) {
    for (const auto& item : data["file"]) {
      auto tensor_name = item[0].get<std::string>();
      file.set(tensor_name, make(tensor_name, item[1].get<std::vector<int64_t>>()));
    }
  }

  // The tensor of the file that a tensor of a component must be, cut as diffusers' converters cut it.
  Tensor piece(const StateDict& from, const json& where) const {
    auto name = data["file"][where.is_array() ? where[0].get<size_t>() : where.get<size_t>()][0].get<std::string>();
    auto whole = from.at(name);
    if (!where.is_array()) return whole;
    if (where[1] == "transposed") return whole.t();
    if (where[1] == "swapped") {
      auto halves = whole.chunk(2);
      return at::cat({halves[1], halves[0]});
    }
    auto sizes = where[2].get<std::vector<int64_t>>();
    auto numel = c10::multiply_integers(sizes);
    auto start = where[1].get<int64_t>();
    return whole.flatten().slice(0, start, start + numel).view(sizes);
  }

  // Compares all components with the list, tensor by tensor. `same(tensor, wanted, is a view of the file)`.
  template <class Same>
  void expect(const SingleFile& got, Same same) const {
    EXPECT_EQ(got.components.size(), data.size() - 1);
    for (const auto& [name, part] : got.components) {
      SCOPED_TRACE(name);
      ASSERT_TRUE(data.contains(name));
      EXPECT_EQ(part.tensors.size(), data[name].size());
      for (const auto& [tensor, where] : data[name].items()) {
        auto* t = part.tensors.find(tensor);
        ASSERT_TRUE(t) << tensor;
        if (where == "identity")
          EXPECT_TRUE(t->is_meta() || at::equal(*t, at::eye(t->size(0)))) << tensor;
        else
          EXPECT_TRUE(same(*t, piece(file, where), !(where.is_array() && where[1] == "swapped"))) << tensor;
      }
    }
  }
};

// The tensors of a published checkpoint, which take no memory, from a tree where "0-23" stands for 24 branches.
void add_branches(const json& tree, const std::string& path, StateDict& file) {
  if (tree.is_array()) return file.set(path, reference::meta("", tree.get<std::vector<int64_t>>()));
  for (const auto& [name, node] : tree.items()) {
    auto dash = name.find('-');
    auto inner = path.empty() ? "" : path + ".";
    if (dash == std::string::npos) {
      add_branches(node, inner + name, file);
      continue;
    }
    for (int i = std::stoi(name), last = std::stoi(name.substr(dash + 1)); i <= last; ++i)
      add_branches(node, inner + std::to_string(i), file);
  }
}

json full_size(const std::string& name) { return reference::read("single_file/full_size.json").at(name); }

StateDict full_size_file(const std::string& name) {
  StateDict file;
  add_branches(full_size(name).at("file"), "", file);
  return file;
}

// As `mapping_hash` in make_single_file.py.
std::string mapping_hash(const StateDict& file, const StateDict& component) {
  std::map<const void*, std::string> names;
  for (const auto& [name, t] : file) names[t.storage().unsafeGetStorageImpl()] = name;
  std::set<std::string> lines;
  for (const auto& [name, t] : component) {
    auto origin = names.find(t.storage().unsafeGetStorageImpl());
    lines.insert(origin == names.end() ? name + " copied\n"
                                       : fmt::format("{} {} {}\n", name, origin->second, t.storage_offset()));
  }
  uint64_t hash = 0xcbf29ce484222325;
  for (const auto& line : lines)
    for (unsigned char c : line) hash = (hash ^ c) * 0x100000001b3;
  return fmt::format("{:016x}", hash);
}

bool same_memory(const Tensor& a, const Tensor& b) {
  return a.sizes() == b.sizes() && a.strides() == b.strides() && a.storage_offset() == b.storage_offset() &&
         a.storage().unsafeGetStorageImpl() == b.storage().unsafeGetStorageImpl();
}

// The fields of `config`, and no others that diffusers and transformers do not have.
void expect_fields(const std::string& config, const json& wanted) { EXPECT_EQ(json::parse(config), wanted); }

std::string rejected(const StateDict& tensors) {
  return error_of([&] { split_single_file(tensors, "file"); });
}

json published_unet() {
  return json::parse(R"({"_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]})");
}

json published_vae() {
  return json::parse(R"({"_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3,
    "sample_size": 512, "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]})");
}

json published_clip() {
  return json::parse(R"({"architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0,
    "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768, "vocab_size": 49408})");
}

json published_open_clip_g() {
  auto config = published_clip();
  config.update({{"architectures", {"CLIPTextModelWithProjection"}},
                 {"hidden_act", "gelu"},
                 {"hidden_size", 1280},
                 {"intermediate_size", 5120},
                 {"num_attention_heads", 20},
                 {"num_hidden_layers", 32},
                 {"projection_dim", 1280}});
  return config;
}

json published_sd3() {
  return json::parse(R"({"_class_name": "SD3Transformer2DModel", "attention_head_dim": 64,
    "caption_projection_dim": 1536, "dual_attention_layers": [], "in_channels": 16, "joint_attention_dim": 4096,
    "num_attention_heads": 24, "num_layers": 24, "out_channels": 16, "patch_size": 2, "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192, "qk_norm": null, "sample_size": 128})");
}

json published_euler() {
  return json::parse(R"({"_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "interpolation_type": "linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
    "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": null, "use_karras_sigmas": false})");
}

json published_scheduler() {
  return json::parse(R"({"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "num_train_timesteps": 1000, "prediction_type": "epsilon", "set_alpha_to_one": false,
    "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null})");
}

}  // namespace

// ---- Names ----------------------------------------------------------------------------------------------------------

TEST(SingleFile, EveryTensorIsTheOneThatDiffusersConvertersTake) {
  for (const auto* name : kTiny) {
    SCOPED_TRACE(name);
    Listed listed(name, reference::meta);
    listed.expect(split_single_file(listed.file, name), [](const Tensor& t, const Tensor& wanted, bool view) {
      return view ? same_memory(t, wanted) : t.sizes() == wanted.sizes();
    });
  }
}

TEST(SingleFile, AFilesTensorsAreViewsOfItsMapping) {
  for (const auto* name : kTiny) {
    SCOPED_TRACE(name);
    Listed listed(name, reference::weight);
    TemporaryFolder folder;
    save_safetensors(listed.file, folder / "model.safetensors");
    auto got = open_single_file(folder / "model.safetensors");
    listed.expect(got, [](const Tensor& t, const Tensor& wanted, bool view) {
      return pristine(t).defined() == view && at::equal(t, wanted);
    });
  }
}

TEST(SingleFile, PublishedCheckpointsMapAsDiffusersMapsThem) {
  for (const auto* name : kFullSize) {
    SCOPED_TRACE(name);
    auto file = full_size_file(name);
    auto got = split_single_file(file, name);
    json components;
    for (const auto& [part, checkpoint] : got.components)
      components[part] = {{"size", checkpoint.tensors.size()}, {"mapping", mapping_hash(file, checkpoint.tensors)}};
    EXPECT_EQ(components, full_size(name).at("components"));
  }
}

// ---- Models ---------------------------------------------------------------------------------------------------------

namespace {

template <class M>
M load(const SingleFile& from, const std::string& component) {
  const auto& [config, tensors, label] = from.components.at(component);
  auto dtype = tensors.begin()->second.scalar_type();
  bool meta = tensors.begin()->second.is_meta();
  return M::from_state_dict(config, tensors, {.dtype = dtype, .device = meta ? at::kMeta : at::kCPU}, label);
}

}  // namespace

TEST(SingleFile, TheModelsLoad) {
  for (const auto* name : {"sd1", "sd2"}) {
    SCOPED_TRACE(name);
    Listed listed(name, reference::weight);
    TemporaryFolder folder;
    save_pickle(listed.file, folder / "model.ckpt");
    auto got = open_single_file(folder / "model.ckpt");
    auto unet = load<UNet2DConditionModel>(got, "unet");
    auto states = load<CLIPTextModel>(got, "text_encoder").encode(at::arange(5).unsqueeze(0));
    auto noise = unet(at::ones({1, unet.in_channels(), 8, 8}), at::tensor(3), states);
    EXPECT_EQ(noise.sizes(), (std::vector<int64_t>{1, 4, 8, 8}));
    EXPECT_EQ(load<AutoencoderKL>(got, "vae").decode(noise).sizes(), (std::vector<int64_t>{1, 3, 32, 32}));
  }
}

TEST(SingleFile, EveryModelTakesItsComponentWhole) {
  auto expect_all = [](const std::string& name, const SingleFile& got) {
    SCOPED_TRACE(name);
    for (const auto& [component, checkpoint] : got.components) {
      SCOPED_TRACE(component);
      if (component == "unet")
        EXPECT_NO_THROW(load<UNet2DConditionModel>(got, component));
      else if (component == "transformer")
        EXPECT_NO_THROW(load<SD3Transformer2DModel>(got, component));
      else if (component == "vae")
        EXPECT_NO_THROW(load<AutoencoderKL>(got, component));
      else if (component == "text_encoder_3")
        EXPECT_NO_THROW(load<T5EncoderModel>(got, component));
      else
        EXPECT_NO_THROW(load<CLIPTextModel>(got, component));
    }
  };
  for (const auto* name : kTiny) expect_all(name, split_single_file(Listed(name, reference::weight).file, name));
  for (const auto* name : kFullSize) expect_all(name, split_single_file(full_size_file(name), name));
}

// ---- Configs --------------------------------------------------------------------------------------------------------

TEST(SingleFile, ConfigsOfVersion1AreThePublishedOnes) {
  auto got = split_single_file(full_size_file("sd15"), "");
  expect_fields(got.components.at("unet").config, published_unet());
  expect_fields(got.components.at("vae").config, published_vae());
  expect_fields(got.components.at("text_encoder").config, published_clip());
  expect_fields(got.scheduler_config, published_scheduler());
}

TEST(SingleFile, ConfigsOfVersion2AreThePublishedOnes) {
  auto got = split_single_file(full_size_file("sd21"), "");
  auto unet = published_unet();
  unet.update({{"attention_head_dim", {5, 10, 20, 20}},
               {"cross_attention_dim", 1024},
               {"sample_size", 96},
               {"upcast_attention", true},
               {"use_linear_projection", true}});
  expect_fields(got.components.at("unet").config, unet);
  auto vae = published_vae();
  vae["sample_size"] = 768;
  expect_fields(got.components.at("vae").config, vae);
  auto clip = published_clip();
  clip.update({{"hidden_act", "gelu"},
               {"hidden_size", 1024},
               {"intermediate_size", 4096},
               {"num_attention_heads", 16},
               {"num_hidden_layers", 23},
               {"projection_dim", 512}});
  expect_fields(got.components.at("text_encoder").config, clip);
  auto scheduler = published_scheduler();
  scheduler.erase("skip_prk_steps");
  scheduler.update({{"_class_name", "DDIMScheduler"}, {"clip_sample", false}, {"prediction_type", "v_prediction"}});
  expect_fields(got.scheduler_config, scheduler);
}

TEST(SingleFile, ConfigsOfXLAreThePublishedOnes) {
  auto got = split_single_file(full_size_file("sdxl"), "");
  EXPECT_EQ(got.pipeline_class, "StableDiffusionXLPipeline");
  auto unet = published_unet();
  unet.update({{"addition_embed_type", "text_time"},
               {"addition_time_embed_dim", 256},
               {"attention_head_dim", {5, 10, 20}},
               {"block_out_channels", {320, 640, 1280}},
               {"cross_attention_dim", 2048},
               {"down_block_types", {"DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"}},
               {"projection_class_embeddings_input_dim", 2816},
               {"sample_size", 128},
               {"transformer_layers_per_block", {1, 2, 10}},
               {"up_block_types", {"CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}},
               {"use_linear_projection", true}});
  expect_fields(got.components.at("unet").config, unet);
  auto vae = published_vae();
  vae.update({{"force_upcast", true}, {"sample_size", 1024}, {"scaling_factor", 0.13025}});
  expect_fields(got.components.at("vae").config, vae);
  expect_fields(got.components.at("text_encoder").config, published_clip());
  expect_fields(got.components.at("text_encoder_2").config, published_open_clip_g());
  expect_fields(got.scheduler_config, published_euler());
}

TEST(SingleFile, ConfigsOfTheRefinerAreThePublishedOnes) {
  auto got = split_single_file(full_size_file("sdxl_refiner"), "");
  EXPECT_EQ(got.pipeline_class, "StableDiffusionXLImg2ImgPipeline");
  auto unet = published_unet();
  unet.update({{"addition_embed_type", "text_time"},
               {"addition_time_embed_dim", 256},
               {"attention_head_dim", {6, 12, 24, 24}},
               {"block_out_channels", {384, 768, 1536, 1536}},
               {"cross_attention_dim", 1280},
               {"down_block_types", {"DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"}},
               {"projection_class_embeddings_input_dim", 2560},
               {"sample_size", 128},
               {"transformer_layers_per_block", 4},
               {"up_block_types", {"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}},
               {"use_linear_projection", true}});
  expect_fields(got.components.at("unet").config, unet);
  expect_fields(got.components.at("text_encoder_2").config, published_open_clip_g());
  expect_fields(got.scheduler_config, published_euler());
}

TEST(SingleFile, XLForInpaintingIsToldByItsInputChannels) {
  auto file = full_size_file("sdxl");
  file.set("model.diffusion_model.input_blocks.0.0.weight", reference::meta("", {320, 9, 3, 3}));
  auto got = split_single_file(file, "");
  EXPECT_EQ(got.pipeline_class, "StableDiffusionXLInpaintPipeline");
  EXPECT_EQ(json::parse(got.components.at("unet").config)["in_channels"], 9);
}

TEST(SingleFile, TheFileMayTellThatAModelPredictsVelocity) {
  for (const char* name : {"sd15", "sd21", "sdxl"}) {
    SCOPED_TRACE(name);
    auto predicts = [&](const char* stated, bool tensor) {
      auto file = full_size_file(name);
      if (*stated) file.metadata["modelspec.prediction_type"] = stated;
      if (tensor) file.set("v_pred", reference::meta("", {0}));
      auto got = split_single_file(file, "file");
      EXPECT_EQ(got.notes.size(), stated == std::string("flow") ? 1u : 0u);
      return json::parse(got.scheduler_config)["prediction_type"].get<std::string>();
    };
    const auto own = predicts("", false);
    EXPECT_EQ(own, name == std::string("sd21") ? "v_prediction" : "epsilon");
    EXPECT_EQ(predicts("v", false), "v_prediction");
    EXPECT_EQ(predicts("v_prediction", false), "v_prediction");
    EXPECT_EQ(predicts("epsilon", false), "epsilon");
    EXPECT_EQ(predicts("", true), "v_prediction");
    EXPECT_EQ(predicts("epsilon", true), "v_prediction");
    EXPECT_EQ(predicts("flow", false), own);
  }
  // Of the model that predicts velocity, only the scheduler is another one.
  auto file = full_size_file("sd15");
  file.set("v_pred", reference::meta("", {0}));
  auto got = split_single_file(file, "");
  expect_fields(got.components.at("unet").config, published_unet());
  expect_fields(got.components.at("vae").config, published_vae());
}

TEST(SingleFile, TheFileMayTellThatTheLastTimestepHasNoSignal) {
  for (const char* name : {"sd15", "sd21", "sdxl"}) {
    SCOPED_TRACE(name);
    auto file = full_size_file(name);
    file.set("v_pred", reference::meta("", {0}));
    file.set("ztsnr", reference::meta("", {0}));
    auto config = json::parse(split_single_file(file, "").scheduler_config);
    EXPECT_EQ(config["rescale_betas_zero_snr"], true);
    EXPECT_EQ(config["prediction_type"], "v_prediction");
    // PNDM does not have the field.
    EXPECT_EQ(config["_class_name"], name == std::string("sdxl") ? "EulerDiscreteScheduler" : "DDIMScheduler");
  }
}

TEST(SingleFile, ConfigsOfVersion3AreThePublishedOnes) {
  auto got = split_single_file(full_size_file("sd3"), "");
  EXPECT_EQ(got.pipeline_class, "StableDiffusion3Pipeline");
  expect_fields(got.components.at("transformer").config, published_sd3());
  auto vae = published_vae();
  vae.update({{"force_upcast", true},
              {"latent_channels", 16},
              {"sample_size", 1024},
              {"scaling_factor", 1.5305},
              {"shift_factor", 0.0609},
              {"use_post_quant_conv", false},
              {"use_quant_conv", false}});
  expect_fields(got.components.at("vae").config, vae);
  auto clip = published_clip();
  clip["architectures"] = {"CLIPTextModelWithProjection"};
  expect_fields(got.components.at("text_encoder").config, clip);
  expect_fields(got.components.at("text_encoder_2").config, published_open_clip_g());
  expect_fields(got.components.at("text_encoder_3").config, json::parse(R"({"architectures": ["T5EncoderModel"],
    "d_ff": 10240, "d_kv": 64, "d_model": 4096, "feed_forward_proj": "gated-gelu", "is_encoder_decoder": true,
    "layer_norm_epsilon": 1e-06, "model_type": "t5", "num_heads": 64, "num_layers": 24,
    "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32, "vocab_size": 32128})"));
  expect_fields(got.scheduler_config,
                {{"_class_name", "FlowMatchEulerDiscreteScheduler"}, {"num_train_timesteps", 1000}, {"shift", 3.0}});
}

TEST(SingleFile, ConfigsOfVersion3Point5AreThePublishedOnes) {
  auto medium = published_sd3();
  medium.update({{"dual_attention_layers", {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}},
                 {"pos_embed_max_size", 384},
                 {"qk_norm", "rms_norm"}});
  auto got = split_single_file(full_size_file("sd35_medium"), "");
  expect_fields(got.components.at("transformer").config, medium);
  auto large = published_sd3();
  large.update(
      {{"caption_projection_dim", 2432}, {"num_attention_heads", 38}, {"num_layers", 38}, {"qk_norm", "rms_norm"}});
  got = split_single_file(full_size_file("sd35_large"), "");
  expect_fields(got.components.at("transformer").config, large);
  EXPECT_FALSE(got.components.contains("text_encoder"));
}

TEST(SingleFile, Version3TakesTheIdentityForItsFirstTextEncodersProjection) {
  auto file = Listed("sd3", reference::weight).file;
  file.set("text_encoders.clip_l.transformer.text_projection.weight", at::ones({24, 24}));
  file.set("text_encoders.clip_l.logit_scale", at::ones({}));
  auto got = split_single_file(file, "");
  EXPECT_TRUE(at::equal(got.components.at("text_encoder").tensors.at("text_projection.weight"), at::eye(24)));
}

TEST(SingleFile, InpaintingPredictsNoise) {
  auto got = split_single_file(Listed("sd2", reference::meta).file, "");
  EXPECT_EQ(json::parse(got.components.at("unet").config)["in_channels"], 9);
  expect_fields(got.scheduler_config, published_scheduler());

  auto file = full_size_file("sd15");
  file.set("model.diffusion_model.input_blocks.0.0.weight", reference::meta("", {320, 9, 3, 3}));
  auto scheduler = published_scheduler();
  scheduler.erase("skip_prk_steps");
  scheduler.update({{"_class_name", "DDIMScheduler"}, {"clip_sample", false}});
  expect_fields(split_single_file(file, "").scheduler_config, scheduler);
}

TEST(SingleFile, TheFileMayTellThatAVersion2ModelPredictsNoise) {
  auto file = full_size_file("sd21");
  auto base = [&] {
    auto got = split_single_file(file, "");
    return json::parse(got.scheduler_config) == published_scheduler() &&
           json::parse(got.components.at("unet").config)["sample_size"] == 64;
  };
  EXPECT_FALSE(base());
  file.set("global_step", at::tensor(875000));
  EXPECT_TRUE(base());
  file.set("global_step", at::tensor(110000));
  EXPECT_FALSE(base());
  file.metadata["modelspec.prediction_type"] = "epsilon";
  EXPECT_TRUE(base());
}

TEST(SingleFile, ATextEncoderCutToTheLayersInUseIsNotCutAgain) {
  StateDict cut;
  for (const auto& [name, t] : full_size_file("sd21"))
    if (name.find("resblocks.23.") == std::string::npos) cut.set(name, t);
  auto got = split_single_file(cut, "");
  EXPECT_EQ(json::parse(got.components.at("text_encoder").config)["num_hidden_layers"], 23);
}

TEST(SingleFile, TextEncoderNamesMayLackALevel) {
  Listed listed("sd1", reference::meta);
  const std::string kLevel = "transformer.text_model.";
  StateDict old;
  for (const auto& [name, t] : listed.file) {
    auto at = name.find(kLevel);
    old.set(at == std::string::npos ? name : std::string(name).replace(at, kLevel.size(), "transformer."), t);
  }
  auto got = split_single_file(old, "");
  EXPECT_EQ(got.components.at("text_encoder").tensors.size(), listed.data["text_encoder"].size());
  EXPECT_TRUE(got.components.at("text_encoder").tensors.contains("text_model.final_layer_norm.bias"));
}

// ---- What is left out, and what is refused --------------------------------------------------------------------------

TEST(SingleFile, TrainingBuffersArePassedOver) {
  Listed listed("sd1", reference::meta);
  for (auto name : {"betas", "alphas_cumprod_prev", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef1", "logvar",
                    "lvlb_weights", "model_ema.decay", "model_ema.diffusion_modelinput_blocks00weight",
                    "first_stage_model.loss.discriminator.main.0.weight"})
    listed.file.set(name, reference::meta("", {1}));
  auto got = split_single_file(listed.file, "");
  EXPECT_EQ(got.components.at("unet").tensors.size(), listed.data["unet"].size());
  EXPECT_EQ(got.components.at("vae").tensors.size(), listed.data["vae"].size());
}

TEST(SingleFile, UnknownTensorsAreANote) {
  auto expect_note = [](const char* checkpoint, const std::string& name) {
    SCOPED_TRACE(checkpoint + (" " + name));
    Listed listed(checkpoint, reference::meta);
    listed.file.set(name, reference::meta("", {1}));
    auto got = split_single_file(listed.file, "file");
    EXPECT_THAT(got.notes,
                testing::ElementsAre("file: the model does not have these tensors, which were left out: " + name));
    for (const auto& [component, checkpoint_] : got.components)
      EXPECT_EQ(checkpoint_.tensors.size(), listed.data[component].size()) << component;
  };
  for (auto name :
       {"depth_model.model.weight", "model.diffusion_model.label_emb.weight", "first_stage_model.x",
        "model.diffusion_model.input_blocks.99999999999999999999.0.in_layers.0.weight",
        "model.diffusion_model.middle_block.3.weight", "first_stage_model.encoder.down.7.block.0.norm1.bias",
        "cond_stage_model.model.x", "edm_vpred.sigma_max", "optimizer.state.0.exp_avg",
        "text_model.embeddings.position_ids", "embedding_manager.embedder.position_ids"})
    expect_note("sd1", name);
  expect_note("sdxl", "edm_mean");
  expect_note("sdxl_refiner", "conditioner.embedders.0.transformer.x");
  for (auto name : {"model.diffusion_model.joint_blocks.0.z_block.attn.qkv.weight", "text_encoders.x.weight",
                    "model.diffusion_model.joint_blocks.x.x_block.attn.qkv.weight"})
    expect_note("sd3", name);
}

// Others may stand in.
TEST(SingleFile, MissingVaesAndTextEncodersAreLeftOut) {
  const std::map<std::string, std::string> encoders{
      {"sd1", "cond_stage_model."}, {"sdxl", "conditioner."}, {"sd3", "text_encoders."}};
  for (const auto& [name, text] : encoders) {
    SCOPED_TRACE(name);
    const Listed listed(name, reference::meta);
    const auto whole = split_single_file(listed.file, "file");
    for (const auto& prefix : {std::string("first_stage_model."), text}) {
      StateDict kept;
      for (const auto& [tensor, t] : listed.file)
        if (!tensor.starts_with(prefix)) kept.set(tensor, t);
      const auto got = split_single_file(kept, "file");
      EXPECT_EQ(got.pipeline_class, whole.pipeline_class);
      EXPECT_EQ(got.components.at(name == "sd3" ? "transformer" : "unet").config,
                whole.components.at(name == "sd3" ? "transformer" : "unet").config);
      for (const auto& [component, part] : whole.components)
        EXPECT_EQ(got.components.contains(component), !component.starts_with(prefix == text ? "text_" : "vae"));
      EXPECT_TRUE(got.notes.empty());
    }
  }
}

// The width of the text that a UNet reads tells its version.
TEST(SingleFile, TheVersionIsToldWithoutATextEncoder) {
  for (const char* name : {"sd15", "sd21", "sdxl", "sdxl_refiner"}) {
    const auto file = full_size_file(name);
    StateDict kept;
    for (const auto& [tensor, t] : file)
      if (!tensor.starts_with("cond_stage_model.") && !tensor.starts_with("conditioner.")) kept.set(tensor, t);
    const auto got = split_single_file(kept, "file"), whole = split_single_file(file, "file");
    EXPECT_EQ(got.pipeline_class, whole.pipeline_class);
    EXPECT_EQ(got.components.at("unet").config, whole.components.at("unet").config);
  }
}

TEST(SingleFile, MissingPartsAreNamed) {
  auto without = [](const char* name, const std::string& prefix) {
    StateDict kept;
    for (const auto& [tensor, t] : Listed(name, reference::meta).file)
      if (!tensor.starts_with(prefix)) kept.set(tensor, t);
    return rejected(kept);
  };
  EXPECT_THAT(without("sd1", "model.diffusion_model.middle_block.1.transformer"), StartsWith("bad_key: file: "));
  EXPECT_THAT(without("sd1", "first_stage_model.decoder.conv_out."), HasSubstr("decoder.conv_out.weight"));
  EXPECT_THAT(without("sdxl", "conditioner.embedders.1.model.text_projection"), HasSubstr("text_projection.weight"));
  EXPECT_THAT(without("sd3", "model.diffusion_model.pos_embed"), HasSubstr("pos_embed.pos_embed"));
  EXPECT_THAT(without("sd3", "text_encoders.t5xxl.transformer.shared."), HasSubstr("shared.weight"));
}

TEST(SingleFile, TensorsOfImpossibleShapeAreNamed) {
  auto with = [](const std::string& checkpoint, const std::string& name, at::IntArrayRef shape) {
    auto file = Listed(checkpoint, reference::meta).file;
    file.set(name, reference::meta("", shape));
    return rejected(file);
  };
  EXPECT_THAT(with("sd1", "model.diffusion_model.input_blocks.0.0.weight", {}), StartsWith("bad_shape: file: "));
  EXPECT_THAT(with("sd1", "first_stage_model.encoder.mid.attn_1.q.weight", {64, 64, 3, 3}),
              StartsWith("bad_shape: file: "));
  EXPECT_THAT(with("sd2", "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias", {71}),
              StartsWith("bad_shape: file: "));
  EXPECT_THAT(with("sdxl", "conditioner.embedders.1.model.text_projection", {28}), StartsWith("bad_shape: file: "));
  EXPECT_THAT(with("sd3", "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", {40, 16}),
              StartsWith("bad_shape: file: "));
  for (auto name : {"context_embedder.weight", "pos_embed", "x_embedder.proj.weight", "final_layer.linear.weight"})
    EXPECT_THAT(with("sd3", std::string("model.diffusion_model.") + name, {}), StartsWith("bad_shape: file: "));
  EXPECT_THAT(with("sd3", "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight", {}),
              StartsWith("bad_shape: file: "));
}

TEST(SingleFile, OtherKindsOfFileAreToldApart) {
  auto looks = [](const std::string& name) { return rejected({{name, at::zeros({1})}}); };
  EXPECT_THAT(looks("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"), HasSubstr("like an adapter"));
  EXPECT_THAT(looks("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"), HasSubstr("like an adapter"));
  EXPECT_THAT(looks("down_blocks.0.resnets.0.conv1.weight"), HasSubstr("diffusers' UNet; give the folder"));
  EXPECT_THAT(looks("encoder.down_blocks.0.resnets.0.conv1.weight"), HasSubstr("diffusers' VAE"));
  EXPECT_THAT(looks("text_model.encoder.layers.0.mlp.fc1.weight"), HasSubstr("like a text encoder"));
  EXPECT_THAT(looks("joint_blocks.0.x_block.attn.qkv.weight"),
              HasSubstr("like the transformer of a Stable Diffusion 3 checkpoint"));
  EXPECT_THAT(looks("model.diffusion_model.double_blocks.0.img_attn.qkv.weight"), HasSubstr("like a Flux"));
  EXPECT_THAT(looks("fc.weight"), HasSubstr("its tensors: fc.weight"));
  EXPECT_THAT(rejected({}), HasSubstr("its tensors: none"));
}

}  // namespace lora
