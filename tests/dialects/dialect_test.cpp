#include "dialects/dialect.h"

#include "dialects/base_model_of.h"
#include "support/compare.h"
#include "support/layers.h"

namespace lora {

namespace {

StateDict file(const std::vector<std::string>& keys) {
  StateDict tensors;
  for (const auto& key : keys) tensors.set(key, key.ends_with(".alpha") ? at::scalar_tensor(1.0) : at::ones({2, 2}));
  return tensors;
}

// What one key becomes, and who read it.
std::pair<std::string, std::string> read(const std::string& key) {
  auto canonical = to_lora_file(file({key}), "unet", "test");
  return {tensors_of(canonical).begin()->first, canonical.dialect};
}

}  // namespace

struct Spelling {
  const char *key, *canonical, *dialect;
};

class Spellings : public testing::TestWithParam<Spelling> {};

TEST_P(Spellings, AreRead) {
  auto [key, canonical, dialect] = GetParam();
  EXPECT_EQ(read(key), (std::pair<std::string, std::string>{canonical, dialect}));
}

INSTANTIATE_TEST_SUITE_P(
    Dialects, Spellings,
    testing::Values(
        Spelling{"lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
                 "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0.lora_A.weight", "kohya"},
        Spelling{"lora_unet_up_blocks_1_resnets_2_conv_shortcut.lora_up.weight",
                 "unet.up_blocks.1.resnets.2.conv_shortcut.lora_B.weight", "kohya"},
        Spelling{"lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj.alpha",
                 "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.alpha", "kohya"},
        Spelling{"lora_unet_down_blocks_0_resnets_0_time_emb_proj.lora_down.weight",
                 "unet.down_blocks.0.resnets.0.time_emb_proj.lora_A.weight", "kohya"},
        Spelling{"lora_te_text_model_encoder_layers_11_self_attn_q_proj.lora_up.weight",
                 "text_encoder.text_model.encoder.layers.11.self_attn.q_proj.lora_B.weight", "kohya"},
        Spelling{"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
                 "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "kohya"},
        Spelling{"lora_te2_text_model_encoder_layers_0_mlp_fc2.lora_down.weight",
                 "text_encoder_2.text_model.encoder.layers.0.mlp.fc2.lora_A.weight", "kohya"},
        Spelling{"base_model.model.mid_block.attentions.0.proj_in.lora_A.weight",
                 "unet.mid_block.attentions.0.proj_in.lora_A.weight", "peft"},
        Spelling{"base_model.model.mid_block.attentions.0.proj_in.lora_B.default.weight",
                 "unet.mid_block.attentions.0.proj_in.lora_B.weight", "peft"},
        Spelling{"text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
                 "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "bare"},
        Spelling{"base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
                 "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "peft"},
        Spelling{"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight",
                 "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", "diffusers"},
        Spelling{"unet.unet.mid_block.attentions.0.proj_in.lora_A.weight",
                 "unet.mid_block.attentions.0.proj_in.lora_A.weight", "diffusers"},
        Spelling{"text_encoder.encoder.layers.0.self_attn.k_proj.lora_B.weight",
                 "text_encoder.text_model.encoder.layers.0.self_attn.k_proj.lora_B.weight", "diffusers"},
        Spelling{"text_encoder_2.text_model.encoder.layers.0.self_attn.k_proj.lora_B.weight",
                 "text_encoder_2.text_model.encoder.layers.0.self_attn.k_proj.lora_B.weight", "diffusers"},
        Spelling{"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.down.weight",
                 "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight", "diffusers-2023"},
        Spelling{"text_encoder.text_model.encoder.layers.0.self_attn.out_proj.lora_linear_layer.up.weight",
                 "text_encoder.text_model.encoder.layers.0.self_attn.out_proj.lora_B.weight", "diffusers-2023"},
        Spelling{"mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight",
                 "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight",
                 "diffusers-attn-procs"},
        Spelling{"unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_q_lora.down.weight",
                 "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q.lora_A.weight", "diffusers-attn-procs"},
        Spelling{"lora_unet_input_blocks_4_1_transformer_blocks_1_ff_net_0_proj.lora_up.weight",
                 "unet.down_blocks.1.attentions.0.transformer_blocks.1.ff.net.0.proj.lora_B.weight", "kohya"},
        Spelling{"lora_unet_output_blocks_2_2_conv.lora_mid.weight",
                 "unet.up_blocks.0.upsamplers.0.conv.lora_mid.weight", "kohya"},
        Spelling{"lora_unet_label_emb_0_2.lora_down.weight", "unet.add_embedding.linear_2.lora_A.weight", "kohya"},
        Spelling{"lora_unet_middle_block_2_emb_layers_1.hada_w1_a", "unet.mid_block.resnets.1.time_emb_proj.hada_w1_a",
                 "kohya"},
        Spelling{"oft_unet_middle_block_1_proj_in.oft_blocks", "unet.mid_block.attentions.0.proj_in.oft_blocks",
                 "kohya"},
        Spelling{"lora_unet__mid_block_attentions_0_proj_in.lora_down.weight",
                 "unet.mid_block.attentions.0.proj_in.lora_A.weight", "kohya"},
        Spelling{"lora_te2_text_projection.lora_down.weight", "text_encoder_2.text_projection.lora_A.weight", "kohya"},
        Spelling{"lora_te3_encoder_block_1_layer_1_DenseReluDense_wi_0.lora_up.weight",
                 "text_encoder_3.encoder.block.1.layer.1.DenseReluDense.wi_0.lora_B.weight", "kohya"},
        Spelling{"lycoris_mid_block_resnets_0_conv1.lokr_w2_a", "unet.mid_block.resnets.0.conv1.lokr_w2_a", "lycoris"},
        Spelling{"lora_transformer_transformer_blocks_0_attn_add_k_proj.lora_up.weight",
                 "transformer.transformer_blocks.0.attn.add_k_proj.lora_B.weight", "onetrainer"},
        Spelling{"diffusion_model.middle_block.1.proj_in.lora_B.weight",
                 "unet.mid_block.attentions.0.proj_in.lora_B.weight", "comfy"},
        Spelling{"text_encoders.clip_g.transformer.text_model.encoder.layers.3.mlp.fc2.lora_up.weight",
                 "text_encoder_2.text_model.encoder.layers.3.mlp.fc2.lora_B.weight", "comfy"},
        Spelling{"text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.k.lora_down.weight",
                 "text_encoder_3.encoder.block.0.layer.0.SelfAttention.k.lora_A.weight", "comfy"},
        Spelling{"unet.middle_block.1.proj_in.alpha", "unet.mid_block.attentions.0.proj_in.alpha", "omi"},
        Spelling{"transformer.joint_blocks.2.x_block.attn2.qkv.1.lora_down.weight",
                 "transformer.transformer_blocks.2.attn2.to_k.lora_A.weight", "omi"},
        Spelling{"clip_l.text_model.encoder.layers.0.mlp.fc1.lora_down.weight",
                 "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "omi"},
        Spelling{"double_blocks.3.processor.proj_lora2.up.weight",
                 "transformer.transformer_blocks.3.attn.to_add_out.lora_B.weight", "xlabs"},
        Spelling{"single_blocks.3.processor.proj_lora.down.weight",
                 "transformer.single_transformer_blocks.3.proj_out.lora_A.weight", "xlabs"},
        Spelling{"img_in.lora_A.weight", "transformer.x_embedder.lora_A.weight", "bfl"},
        Spelling{"middle_block.1.proj_in.up", "controlnet.mid_block.attentions.0.proj_in.lora_B.weight",
                 "control-lora"},
        Spelling{"mid_block.attentions.0.proj_in.lora_A.weight", "unet.mid_block.attentions.0.proj_in.lora_A.weight",
                 "bare"},
        Spelling{"unet.mid_block.attentions.0.proj_in.lora_A.default_0.weight",
                 "unet.mid_block.attentions.0.proj_in.lora_A.weight", "diffusers"},
        Spelling{"text_encoder.text_model.embeddings.token_embedding.lora_embedding_A",
                 "text_encoder.text_model.embeddings.token_embedding.lora_A.weight", "diffusers"},
        Spelling{"base_model.model.mid_block.attentions.0.proj_in.hada_w1_a",
                 "unet.mid_block.attentions.0.proj_in.hada_w1_a", "peft"},
        Spelling{"base_model.model.mid_block.attentions.0.proj_in.oft_R.default.weight",
                 "unet.mid_block.attentions.0.proj_in.oft_R.weight", "peft"},
        Spelling{"text_encoder.text_model.encoder.layers.1.self_attn.k_proj.to_k_lora.down.weight",
                 "text_encoder.text_model.encoder.layers.1.self_attn.k_proj.lora_A.weight", "diffusers-attn-procs"},
        Spelling{"lora_unet_mid_block_attentions_0_proj_in.dora_scale",
                 "unet.mid_block.attentions.0.proj_in.dora_scale", "kohya"},
        Spelling{"lora_unet_mid_block_resnets_0_conv1.diff", "unet.mid_block.resnets.0.conv1.diff", "kohya"},
        Spelling{"lora_unet_mid_block_resnets_0_conv1.diff_b", "unet.mid_block.resnets.0.conv1.diff_b", "kohya"},
        Spelling{"lora_unet_mid_block_resnets_0_norm1.w_norm", "unet.mid_block.resnets.0.norm1.diff", "kohya"},
        Spelling{"lora_unet_mid_block_attentions_0_transformer_blocks_0_norm2.b_norm",
                 "unet.mid_block.attentions.0.transformer_blocks.0.norm2.diff_b", "kohya"},
        Spelling{"lora_te_text_model_encoder_layers_0_layer_norm1.w_norm",
                 "text_encoder.text_model.encoder.layers.0.layer_norm1.diff", "kohya"},
        Spelling{"base_model.model.mid_block.resnets.0.conv1.lora_magnitude_vector",
                 "unet.mid_block.resnets.0.conv1.lora_magnitude_vector", "peft"},
        Spelling{"base_model.model.mid_block.resnets.0.conv1.lora_magnitude_vector.default.weight",
                 "unet.mid_block.resnets.0.conv1.lora_magnitude_vector", "peft"},
        Spelling{"base_model.model.mid_block.resnets.0.conv1.lora_B.bias", "unet.mid_block.resnets.0.conv1.lora_B.bias",
                 "peft"},
        Spelling{"unet.mid_block.resnets.0.conv1.lora_magnitude_vector",
                 "unet.mid_block.resnets.0.conv1.lora_magnitude_vector", "diffusers"},
        Spelling{"unet.mid_block.resnets.0.conv1.lora_B.bias", "unet.mid_block.resnets.0.conv1.lora_B.bias",
                 "diffusers"},
        Spelling{"text_encoder.text_model.encoder.layers.1.self_attn.to_v_lora.down.weight",
                 "text_encoder.text_model.encoder.layers.1.self_attn.v_proj.lora_A.weight", "diffusers-attn-procs"}),
    [](const auto& test) { return "Case" + std::to_string(test.index); });

TEST(Dialects, EveryExampleIsReadByItsOwnDialectAlone) {
  for (const auto& written : dialects())
    for (const auto& reader : dialects())
      EXPECT_EQ(reader.read(written.example).has_value(), &written == &reader)
          << reader.name << " reads " << written.example;
}

TEST(Dialects, MixedFilesAreReadKeyByKeyInAnyOrder) {
  std::string old_key = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight";
  std::string new_key = "unet.mid_block.resnets.0.conv1.lora_A.weight",
              other = "unet.mid_block.resnets.0.conv1.lora_B.weight";
  for (const auto& keys : {std::vector{old_key, new_key, other}, {new_key, other, old_key}}) {
    auto canonical = to_lora_file(file(keys), "unet", "test");
    EXPECT_EQ(tensors_of(canonical).size(), 3u);
    EXPECT_EQ(canonical.dialect, "diffusers + diffusers-2023");
  }
}

TEST(Dialects, UnknownKeysAreListedAndOthersKept) {
  auto canonical = to_lora_file(
      file({"lora_unet_mid_block_resnets_0_conv1.lora_down.weight", "lora_unet_no_such_thing.lora_down.weight"}),
      "unet", "t");
  EXPECT_EQ(tensors_of(canonical).size(), 1u);
  ASSERT_EQ(canonical.left_out.size(), 1u);
  ASSERT_EQ(canonical.unmatched.size(), 1u);
  EXPECT_EQ(canonical.unmatched[0].key, canonical.left_out[0].key);
  EXPECT_EQ(canonical.left_out[0].key, "lora_unet_no_such_thing.lora_down.weight");
}

TEST(Dialects, TwoSpellingsOfOneTensorAreNotAdded) {
  auto canonical = to_lora_file(
      file({"lora_unet_mid_block_resnets_0_conv1.lora_down.weight", "unet.mid_block.resnets.0.conv1.lora_A.weight"}),
      "unet", "t");
  EXPECT_EQ(tensors_of(canonical).size(), 1u);
  EXPECT_EQ(canonical.unmatched.size(), 1u);
}

TEST(Dialects, OtherFilesAreToldApart) {
  for (auto [key, what] : {std::pair{"model.diffusion_model.out.2.weight", "checkpoint"},
                           {"string_to_param.*", "textual inversion"},
                           {"time_embedding.linear_1.weight", "UNet's own weights"},
                           {"lllite_unet_x.down.weight", "LLLite"}}) {
    auto message = error_of(ErrorKind::bad_key, [&] { to_lora_file(file({key}), "unet", "f"); });
    EXPECT_NE(message.find(what), std::string::npos) << message;
  }
  EXPECT_NE(error_of(ErrorKind::bad_key, [] { to_lora_file({}, "unet", "f"); }).find("no tensors"), std::string::npos);
}

TEST(Dialects, WhatWrappersLeaveInNamesIsPassedOver) {
  for (const char* key : {" unet.mid_block.attentions.0.proj_in.lora_A.weight ",
                          "unet._orig_mod.mid_block.attentions.0.proj_in.lora_A.weight",
                          "module.unet.mid_block.attentions.0.proj_in.lora_A.weight",
                          "unet.mid_block._fsdp_wrapped_module.attentions.0.module.proj_in.lora_A.weight"})
    EXPECT_EQ(read(key).first, "unet.mid_block.attentions.0.proj_in.lora_A.weight") << key;
}

TEST(Dialects, AWholeWeightIsNoIA3) {
  std::string module = "lora_unet_mid_block_attentions_0_proj_in";
  auto ia3 = to_lora_file(file({module + ".weight", module + ".on_input"}), "unet", "t");
  EXPECT_EQ(tensors_of(ia3).size(), 2u);
  auto mixed = to_lora_file(file({module + ".weight", "lora_unet_mid_block_attentions_0_proj_out.lora_down.weight"}),
                            "unet", "t");
  EXPECT_EQ(tensors_of(mixed).size(), 1u);
  ASSERT_EQ(mixed.unmatched.size(), 1u);
  EXPECT_EQ(mixed.unmatched[0].key, module + ".weight");
}

// Never the down of one spelling with the up of another.
TEST(Dialects, ALayerInTwoSpellingsIsTheFirstOnes) {
  auto ours = "unet.mid_block.attentions.0.proj_in.";
  StateDict tensors{{"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", at::full({2, 2}, 1.0)},
                    {"lora_unet_middle_block_1_proj_in.lora_down.weight", at::full({2, 2}, 2.0)},
                    {"lora_unet_middle_block_1_proj_in.lora_up.weight", at::full({2, 2}, 2.0)},
                    {"lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", at::full({2, 2}, 1.0)}};
  auto canonical = to_lora_file(tensors, "unet", "t");
  EXPECT_EQ(tensors_of(canonical).size(), 2u);
  for (const char* suffix : {"lora_A.weight", "lora_B.weight"})
    EXPECT_EQ(tensors_of(canonical).at(std::string(ours) + suffix)[0][0].item<float>(), 1) << suffix;
  EXPECT_EQ(canonical.unmatched.size(), 2u);
}

TEST(Dialects, SplitQkvIsAsItWasTrained) {
  StateDict tensors{{"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", at::randn({6, 4})},
                    {"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight",
                     at::block_diag({at::randn({4, 2}), at::randn({4, 2}), at::randn({4, 2})})},
                    {"lora_unet_joint_blocks_0_x_block_attn_qkv.alpha", at::scalar_tensor(1.0)}};
  auto path = std::string("transformer.transformer_blocks.0.attn.to_k.");
  EXPECT_EQ(tensors_of(to_lora_file(tensors, "", "t")).at(path + "lora_A.weight").size(0), 6);
  tensors.metadata["ss_network_args"] = R"({"split_qkv": "True"})";
  auto canonical = to_lora_file(tensors, "", "t");
  EXPECT_TRUE(at::equal(tensors_of(canonical).at(path + "lora_A.weight"), tensors.begin()->second.slice(0, 2, 4)));
  EXPECT_EQ(tensors_of(canonical).at(path + "lora_B.weight").sizes().vec(), (std::vector<int64_t>{4, 2}));
  EXPECT_EQ(tensors_of(canonical).at(path + "alpha").item<double>(), 1);
  ASSERT_EQ(canonical.notes.size(), 1u);
  // What does not stand in blocks was not trained so, whatever the metadata says.
  tensors.set("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight", at::randn({12, 6}));
  EXPECT_EQ(tensors_of(to_lora_file(tensors, "", "t")).at(path + "lora_A.weight").size(0), 6);
}

TEST(Dialects, CloneofsimosPositionsHaveNames) {
  StateDict list;
  auto add = [&](const std::string& up, const std::string& down, int64_t out, int64_t in) {
    list.set(up, at::zeros({out, 2}));
    list.set(down, at::zeros({2, in}));
  };
  for (int i = 0; i < 8; ++i) add(fmt::format("text_encoder:{}:up", i), fmt::format("text_encoder:{}:down", i), 16, 16);
  auto canonical = to_lora_file(list, "unet", "t");
  EXPECT_EQ(canonical.dialect, "cloneofsimo");
  EXPECT_TRUE(
      tensors_of(canonical).contains("text_encoder.text_model.encoder.layers.1.self_attn.q_proj.lora_B.weight"));

  list = {};
  for (int block = 0, n = 0; block < 16; ++block)
    for (int i = 0; i < 9; ++i, ++n)
      add(std::to_string(2 * n), std::to_string(2 * n + 1), i == 4 ? 8 * 8 : 8, i == 6 || i == 7 ? 16 : 8);
  canonical = to_lora_file(list, "unet", "t");
  EXPECT_EQ(tensors_of(canonical).size(), 288u);
  auto block = std::string("unet.mid_block.attentions.0.transformer_blocks.0.");
  EXPECT_EQ(tensors_of(canonical).at(block + "ff.net.0.proj.lora_B.weight").size(0), 64);
  EXPECT_EQ(tensors_of(canonical).at(block + "attn2.to_k.lora_A.weight").size(1), 16);
}

TEST(BaseModels, AreToldByNamesAndSizes) {
  auto base_model = [](const StateDict& file) {
    if (file.empty()) return base_model_of({}, {});
    auto read = to_lora_file(file, "", "test");
    return ToldModel{read.base_model, read.cross_attention};
  };
  StateDict tensors{
      {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", at::zeros({4, 2048})}};
  EXPECT_EQ(base_model(tensors).model, BaseModel::sdxl);
  EXPECT_EQ(base_model(tensors).cross_attention, 2048);
  EXPECT_EQ(base_model({}).model, BaseModel::unknown);
  StateDict sgm{{"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight", at::zeros({4, 2048})}};
  EXPECT_EQ(base_model(sgm).model, BaseModel::sdxl);
  auto family = [&](const std::string& key, int64_t in = 8) {
    return base_model(StateDict{{key, at::zeros({4, in})}}).model;
  };
  EXPECT_EQ(family("transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight"), BaseModel::sd3);
  EXPECT_EQ(family("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", 1536), BaseModel::sd3);
  EXPECT_EQ(family("transformer.single_transformer_blocks.0.proj_mlp.lora_A.weight", 3072), BaseModel::flux);
  EXPECT_EQ(family("lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight", 1536), BaseModel::sd3);
  EXPECT_EQ(family("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"), BaseModel::sd3);
  EXPECT_EQ(family("double_blocks.0.processor.qkv_lora1.down.weight"), BaseModel::flux);
  EXPECT_EQ(family("transformer.transformer_layers.0.attn1.to_q.lora_A.weight"), BaseModel::amused);
  EXPECT_EQ(family("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"),
            BaseModel::unknown);  // Stable Diffusion 3's too
  StateDict both{{"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", at::zeros({4, 8})},
                 {"lora_unet_middle_block_1_proj_in.lora_down.weight", at::zeros({4, 8})}};
  EXPECT_EQ(base_model(both).model, BaseModel::sdxl);
  EXPECT_EQ(family("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"), BaseModel::unknown);
  StateDict told{{"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", at::zeros({4, 8})}};
  told.metadata["ss_base_model_version"] = "sd_v1";
  EXPECT_EQ(base_model(told).model, BaseModel::sd1);
}

}  // namespace lora
