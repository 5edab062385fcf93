#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/mapped_file.h"
#include "lora/error.h"
#include "models/errors.h"
#include "models/ldm_checkpoint.h"
#include "models/reference_model.h"
#include "support/folder.h"

namespace lora {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

namespace {

// A checkpoint as tools/reference/make_ldm.py lists it, its tensors made by `make`.
struct Listed {
  json data;
  StateDict file;

  Listed(const std::string& name, reference::Make make) : data(reference::read("ldm/" + name + ".json")) {
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
    auto sizes = where[2].get<std::vector<int64_t>>();
    auto numel = c10::multiply_integers(sizes);
    auto start = where[1].get<int64_t>();
    return whole.flatten().slice(0, start, start + numel).view(sizes);
  }

  // Compares a component with the list, tensor by tensor.
  template <class Same>
  void expect(const char* part, const Checkpoint& got, const StateDict& from, Same same) const {
    SCOPED_TRACE(part);
    EXPECT_EQ(got.tensors.size(), data[part].size());
    for (const auto& [name, where] : data[part].items()) {
      auto* t = got.tensors.find(name);
      ASSERT_TRUE(t) << name;
      EXPECT_TRUE(same(*t, piece(from, where))) << name;
    }
  }
};

bool same_memory(const Tensor& a, const Tensor& b) {
  return a.sizes() == b.sizes() && a.is_contiguous() && a.storage_offset() == b.storage_offset() &&
         a.storage().unsafeGetStorageImpl() == b.storage().unsafeGetStorageImpl();
}

// The fields of `config`, and no others that diffusers and transformers do not have.
void expect_fields(const std::string& config, const json& wanted) { EXPECT_EQ(json::parse(config), wanted); }

std::string rejected(const StateDict& tensors) {
  return error_of([&] { split_ldm_checkpoint(tensors, "file"); });
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

json published_scheduler() {
  return json::parse(R"({"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "num_train_timesteps": 1000, "prediction_type": "epsilon", "set_alpha_to_one": false,
    "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null})");
}

}  // namespace

// ---- Names ----------------------------------------------------------------------------------------------------------

TEST(Ldm, EveryTensorIsTheOneThatDiffusersConvertersTake) {
  for (const auto* name : {"sd15", "sd21", "tiny1", "tiny2"}) {
    SCOPED_TRACE(name);
    Listed listed(name, reference::meta);
    auto got = split_ldm_checkpoint(listed.file, name);
    listed.expect("unet", got.unet, listed.file, same_memory);
    listed.expect("vae", got.vae, listed.file, same_memory);
    listed.expect("text_encoder", got.text_encoder, listed.file, same_memory);
  }
}

TEST(Ldm, AFilesTensorsAreViewsOfItsMapping) {
  for (const auto* name : {"tiny1", "tiny2"}) {
    Listed listed(name, reference::weight);
    TemporaryFolder folder;
    save_safetensors(listed.file, folder / "model.safetensors");
    auto got = open_ldm_checkpoint(folder / "model.safetensors");
    auto same = [](const Tensor& t, const Tensor& wanted) { return pristine(t).defined() && at::equal(t, wanted); };
    listed.expect("unet", got.unet, listed.file, same);
    listed.expect("vae", got.vae, listed.file, same);
    listed.expect("text_encoder", got.text_encoder, listed.file, same);
  }
}

TEST(Ldm, TheModelsLoad) {
  for (const auto* name : {"tiny1", "tiny2"}) {
    SCOPED_TRACE(name);
    Listed listed(name, reference::weight);
    TemporaryFolder folder;
    save_pickle(listed.file, folder / "model.ckpt");
    auto got = open_ldm_checkpoint(folder / "model.ckpt");
    ModelOptions options{.dtype = at::kFloat};
    auto load = [&](auto make, const Checkpoint& part) { return make(part.config, part.tensors, options, part.label); };
    auto unet = load(UNet2DConditionModel::from_state_dict, got.unet);
    auto vae = load(AutoencoderKL::from_state_dict, got.vae);
    auto text_encoder = load(CLIPTextModel::from_state_dict, got.text_encoder);

    auto states = text_encoder.encode(at::arange(5).unsqueeze(0));
    auto noise = unet(at::ones({1, unet.in_channels(), 8, 8}), at::tensor(3), states);
    EXPECT_EQ(noise.sizes(), (std::vector<int64_t>{1, 4, 8, 8}));
    EXPECT_EQ(vae.decode(noise).sizes(), (std::vector<int64_t>{1, 3, 32, 32}));
  }
}

// ---- Configs --------------------------------------------------------------------------------------------------------

TEST(Ldm, ConfigsOfVersion1AreThePublishedOnes) {
  auto got = split_ldm_checkpoint(Listed("sd15", reference::meta).file, "");
  expect_fields(got.unet.config, published_unet());
  expect_fields(got.vae.config, published_vae());
  expect_fields(got.text_encoder.config, published_clip());
  expect_fields(got.scheduler_config, published_scheduler());
}

TEST(Ldm, ConfigsOfVersion2AreThePublishedOnes) {
  auto got = split_ldm_checkpoint(Listed("sd21", reference::meta).file, "");
  auto unet = published_unet();
  unet.update({{"attention_head_dim", {5, 10, 20, 20}},
               {"cross_attention_dim", 1024},
               {"sample_size", 96},
               {"upcast_attention", true},
               {"use_linear_projection", true}});
  expect_fields(got.unet.config, unet);
  auto vae = published_vae();
  vae["sample_size"] = 768;
  expect_fields(got.vae.config, vae);
  auto clip = published_clip();
  clip.update({{"hidden_act", "gelu"},
               {"hidden_size", 1024},
               {"intermediate_size", 4096},
               {"num_attention_heads", 16},
               {"num_hidden_layers", 23},
               {"projection_dim", 512}});
  expect_fields(got.text_encoder.config, clip);
  auto scheduler = published_scheduler();
  scheduler.erase("skip_prk_steps");
  scheduler.update({{"_class_name", "DDIMScheduler"}, {"clip_sample", false}, {"prediction_type", "v_prediction"}});
  expect_fields(got.scheduler_config, scheduler);
}

TEST(Ldm, InpaintingPredictsNoise) {
  auto got = split_ldm_checkpoint(Listed("tiny2", reference::meta).file, "");
  EXPECT_EQ(json::parse(got.unet.config)["in_channels"], 9);
  expect_fields(got.scheduler_config, published_scheduler());

  auto file = Listed("sd15", reference::meta).file;
  file.set("model.diffusion_model.input_blocks.0.0.weight", reference::meta("", {320, 9, 3, 3}));
  auto scheduler = published_scheduler();
  scheduler.erase("skip_prk_steps");
  scheduler.update({{"_class_name", "DDIMScheduler"}, {"clip_sample", false}});
  expect_fields(split_ldm_checkpoint(file, "").scheduler_config, scheduler);
}

TEST(Ldm, TheFileMayTellThatAVersion2ModelPredictsNoise) {
  auto file = Listed("sd21", reference::meta).file;
  auto base = [&] {
    auto got = split_ldm_checkpoint(file, "");
    return json::parse(got.scheduler_config) == published_scheduler() &&
           json::parse(got.unet.config)["sample_size"] == 64;
  };
  EXPECT_FALSE(base());
  file.set("global_step", at::tensor(875000));
  EXPECT_TRUE(base());
  file.set("global_step", at::tensor(110000));
  EXPECT_FALSE(base());
  file.metadata["modelspec.prediction_type"] = "epsilon";
  EXPECT_TRUE(base());
}

TEST(Ldm, ATextEncoderCutToTheLayersInUseIsNotCutAgain) {
  StateDict cut;
  for (const auto& [name, t] : Listed("sd21", reference::meta).file)
    if (name.find("resblocks.23.") == std::string::npos) cut.set(name, t);
  auto got = split_ldm_checkpoint(cut, "");
  EXPECT_EQ(json::parse(got.text_encoder.config)["num_hidden_layers"], 23);
}

TEST(Ldm, TextEncoderNamesMayLackALevel) {
  Listed listed("tiny1", reference::meta);
  const std::string kLevel = "transformer.text_model.";
  StateDict old;
  for (const auto& [name, t] : listed.file) {
    auto at = name.find(kLevel);
    old.set(at == std::string::npos ? name : std::string(name).replace(at, kLevel.size(), "transformer."), t);
  }
  auto got = split_ldm_checkpoint(old, "");
  EXPECT_EQ(got.text_encoder.tensors.size(), listed.data["text_encoder"].size());
  EXPECT_TRUE(got.text_encoder.tensors.contains("text_model.final_layer_norm.bias"));
}

// ---- What is left out, and what is refused --------------------------------------------------------------------------

TEST(Ldm, TrainingBuffersArePassedOver) {
  Listed listed("tiny1", reference::meta);
  for (auto name : {"betas", "alphas_cumprod_prev", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef1", "logvar",
                    "lvlb_weights", "model_ema.decay", "model_ema.diffusion_modelinput_blocks00weight",
                    "first_stage_model.loss.discriminator.main.0.weight"})
    listed.file.set(name, reference::meta("", {1}));
  auto got = split_ldm_checkpoint(listed.file, "");
  EXPECT_EQ(got.unet.tensors.size(), listed.data["unet"].size());
  EXPECT_EQ(got.vae.tensors.size(), listed.data["vae"].size());
}

TEST(Ldm, UnknownTensorsAreNamed) {
  for (auto name :
       {"depth_model.model.weight", "model.diffusion_model.label_emb.weight", "first_stage_model.x",
        "model.diffusion_model.input_blocks.99999999999999999999.0.in_layers.0.weight",
        "model.diffusion_model.middle_block.3.weight", "first_stage_model.encoder.down.7.block.0.norm1.bias",
        "cond_stage_model.model.transformer.resblocks.x.ln_1.weight"}) {
    auto file = Listed("tiny1", reference::meta).file;
    file.set(name, reference::meta("", {1}));
    EXPECT_THAT(rejected(file), StartsWith("bad_key: file: tensors that are in no Stable Diffusion"));
    EXPECT_THAT(rejected(file), HasSubstr(name));
  }
}

TEST(Ldm, MissingPartsAreNamed) {
  auto without = [](const std::string& prefix) {
    StateDict kept;
    for (const auto& [name, t] : Listed("tiny1", reference::meta).file)
      if (!name.starts_with(prefix)) kept.set(name, t);
    return rejected(kept);
  };
  EXPECT_THAT(without("first_stage_model."), StartsWith("not_found: file: the checkpoint has no VAE"));
  EXPECT_THAT(without("cond_stage_model."), StartsWith("not_found: file: the checkpoint has no text encoder"));
  EXPECT_THAT(without("model.diffusion_model.middle_block.1.transformer"), StartsWith("bad_key: file: "));
  EXPECT_THAT(without("first_stage_model.decoder.conv_out."), HasSubstr("decoder.conv_out.weight"));
}

TEST(Ldm, TensorsOfImpossibleShapeAreNamed) {
  auto with = [](const std::string& checkpoint, const std::string& name, at::IntArrayRef shape) {
    auto file = Listed(checkpoint, reference::meta).file;
    file.set(name, reference::meta("", shape));
    return rejected(file);
  };
  EXPECT_THAT(with("tiny1", "model.diffusion_model.input_blocks.0.0.weight", {}), StartsWith("bad_shape: file: "));
  EXPECT_THAT(with("tiny1", "first_stage_model.encoder.mid.attn_1.q.weight", {64, 64, 3, 3}),
              StartsWith("bad_shape: file: "));
  EXPECT_THAT(with("tiny2", "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias", {71}),
              StartsWith("bad_shape: file: "));
}

TEST(Ldm, OtherKindsOfFileAreToldApart) {
  auto looks = [](const std::string& name) { return rejected({{name, at::zeros({1})}}); };
  auto unet = "model.diffusion_model.input_blocks.0.0.weight";
  EXPECT_THAT(rejected({{unet, at::zeros({1})}, {"conditioner.embedders.0.transformer.x", at::zeros({1})}}),
              StartsWith("unsupported: file: not a Stable Diffusion 1.x or 2.x checkpoint; it looks like a Stable "
                         "Diffusion XL checkpoint"));
  EXPECT_THAT(looks("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"), HasSubstr("like an adapter"));
  EXPECT_THAT(looks("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"), HasSubstr("like an adapter"));
  EXPECT_THAT(looks("down_blocks.0.resnets.0.conv1.weight"), HasSubstr("diffusers' UNet; give the folder"));
  EXPECT_THAT(looks("encoder.down_blocks.0.resnets.0.conv1.weight"), HasSubstr("diffusers' VAE"));
  EXPECT_THAT(looks("text_model.encoder.layers.0.mlp.fc1.weight"), HasSubstr("like a text encoder"));
  EXPECT_THAT(looks("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"), HasSubstr("Stable Diffusion 3"));
  EXPECT_THAT(looks("model.diffusion_model.double_blocks.0.img_attn.qkv.weight"), HasSubstr("like a Flux"));
  EXPECT_THAT(looks("fc.weight"), HasSubstr("its tensors: fc.weight"));
  EXPECT_THAT(rejected({}), HasSubstr("its tensors: none"));
}

}  // namespace lora
