#include "dialects/spell.h"

#include "dialects/dialect.h"
#include "names/base_model.h"
#include "support/compare.h"
#include "support/layers.h"

namespace lora {

namespace {

StateDict written(const StateDict& canonical, const std::string& target, BaseModel base_model) {
  StateDict file;
  for (const auto& s : spell(layers_named(canonical), parse_target(target), base_model)) {
    auto tensor = s.make();
    EXPECT_EQ(tensor.sizes().vec(), s.shape) << s.key;
    EXPECT_EQ(tensor.scalar_type(), s.dtype) << s.key;
    file.set(s.key, tensor);
  }
  return file;
}

void add_lora(StateDict& file, const std::string& path, int64_t out = 6, int64_t in = 4, double alpha = 2) {
  file.set(path + ".lora_A.weight", at::randn({2, in}));
  file.set(path + ".lora_B.weight", at::randn({out, 2}));
  file.set(path + ".alpha", at::scalar_tensor(alpha));
}

void expect_same(const StateDict& a, const StateDict& b) {
  EXPECT_EQ(a.size(), b.size());
  for (const auto& [key, tensor] : a) {
    ASSERT_TRUE(b.contains(key)) << key;
    EXPECT_TRUE(at::equal(tensor, b.at(key))) << key;
  }
}

}  // namespace

struct Keys {
  const char *canonical, *target;
  BaseModel base_model;
  const char* key;
};

class SpelledKeys : public testing::TestWithParam<Keys> {};

TEST_P(SpelledKeys, AreThePrograms) {
  auto [canonical, target, base_model, key] = GetParam();
  StateDict file;
  add_lora(file, canonical);
  auto out = written(file, target, base_model);
  EXPECT_TRUE(out.contains(key)) << "no " << key << " but " << out.begin()->first;
}

INSTANTIATE_TEST_SUITE_P(
    Targets, SpelledKeys,
    testing::Values(Keys{"unet.mid_block.attentions.0.proj_in", "kohya", BaseModel::sd1,
                         "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"},
                    Keys{"unet.mid_block.attentions.0.proj_in", "kohya", BaseModel::sdxl,
                         "lora_unet_middle_block_1_proj_in.lora_up.weight"},
                    Keys{"unet.mid_block.attentions.0.proj_in", "comfy", BaseModel::sd1,
                         "diffusion_model.middle_block.1.proj_in.alpha"},
                    Keys{"unet.mid_block.attentions.0.proj_in", "diffusers", BaseModel::sdxl,
                         "unet.mid_block.attentions.0.proj_in.lora_A.weight"},
                    Keys{"unet.mid_block.attentions.0.proj_in", "peft", BaseModel::sdxl,
                         "base_model.model.mid_block.attentions.0.proj_in.lora_B.weight"},
                    Keys{"text_encoder.text_model.encoder.layers.0.mlp.fc1", "kohya", BaseModel::sd1,
                         "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"},
                    Keys{"unet.mid_block.attentions.0.proj_in", "kohya", BaseModel::unknown,
                         "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"},
                    Keys{"text_encoder.text_model.encoder.layers.0.mlp.fc1", "kohya", BaseModel::unknown,
                         "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"},
                    Keys{"text_encoder.text_model.encoder.layers.0.mlp.fc1", "kohya", BaseModel::sdxl,
                         "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"},
                    Keys{"text_encoder_2.text_model.encoder.layers.0.mlp.fc1", "comfy", BaseModel::sdxl,
                         "text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.lora_down.weight"},
                    Keys{"text_encoder_3.encoder.block.0.layer.0.SelfAttention.q", "kohya", BaseModel::sd3,
                         "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight"},
                    Keys{"text_encoder_2.encoder.block.0.layer.0.SelfAttention.q", "kohya", BaseModel::flux,
                         "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight"},
                    Keys{"transformer.transformer_blocks.3.attn.to_out.0", "kohya", BaseModel::sd3,
                         "lora_unet_joint_blocks_3_x_block_attn_proj.lora_down.weight"},
                    Keys{"transformer.transformer_blocks.3.attn.to_q", "kohya", BaseModel::sd3,
                         "lora_unet_joint_blocks_3_x_block_attn_qkv.lora_down.weight"},
                    Keys{"transformer.single_transformer_blocks.3.proj_mlp", "comfy", BaseModel::flux,
                         "diffusion_model.single_blocks.3.linear1.lora_up.weight"},
                    Keys{"transformer.transformer_layers.3.attn1.to_q", "peft", BaseModel::amused,
                         "base_model.model.transformer_layers.3.attn1.to_q.lora_A.weight"}),
    [](const auto& test) { return "Case" + std::to_string(test.index); });

TEST(Spell, FusedLayersComeBackToTheBit) {
  at::manual_seed(3);
  StateDict kohya;
  auto add = [&](const std::string& module, int64_t out, int64_t in) {
    kohya.set(module + ".lora_down.weight", at::randn({2, in}));
    kohya.set(module + ".lora_up.weight", at::randn({out, 2}));
    kohya.set(module + ".alpha", at::scalar_tensor(1.0));
  };
  add("lora_unet_joint_blocks_0_x_block_attn_qkv", 24, 8);
  add("lora_unet_joint_blocks_0_context_block_adaLN_modulation_1", 48, 8);
  add("lora_unet_joint_blocks_1_context_block_adaLN_modulation_1", 16, 8);
  add("lora_unet_final_layer_adaLN_modulation_1", 16, 8);
  add("lora_te3_encoder_block_0_layer_0_SelfAttention_q", 8, 8);
  auto canonical = to_lora_file(kohya, "", "test");
  EXPECT_EQ(tensors_of(canonical).at("transformer.transformer_blocks.0.attn.to_k.lora_B.weight").size(0), 8);
  auto up = [&](const std::string& path) { return tensors_of(canonical).at("transformer." + path + ".lora_B.weight"); };
  auto first = kohya.at("lora_unet_joint_blocks_0_context_block_adaLN_modulation_1.lora_up.weight");
  auto last = kohya.at("lora_unet_joint_blocks_1_context_block_adaLN_modulation_1.lora_up.weight");
  EXPECT_TRUE(at::equal(up("transformer_blocks.0.norm1_context.linear"), first));
  EXPECT_TRUE(
      at::equal(up("transformer_blocks.1.norm1_context.linear"), at::cat({last.slice(0, 8), last.slice(0, 0, 8)})));
  expect_same(written(tensors_of(canonical), "kohya", BaseModel::sd3), kohya);
  auto comfy = written(tensors_of(canonical), "comfy", BaseModel::sd3);
  EXPECT_TRUE(comfy.contains("diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_up.weight"));
  expect_same(tensors_of(to_lora_file(comfy, "", "test")), tensors_of(canonical));
}

TEST(Spell, EveryTargetIsReadBackTheSame) {
  at::manual_seed(4);
  StateDict canonical;
  add_lora(canonical, "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 6, 2048);
  add_lora(canonical, "unet.up_blocks.1.upsamplers.0.conv");
  add_lora(canonical, "unet.add_embedding.linear_2");
  add_lora(canonical, "text_encoder.text_model.encoder.layers.0.self_attn.q_proj");
  add_lora(canonical, "text_encoder_2.text_projection");
  for (const char* target : {"kohya", "comfy"})
    expect_same(tensors_of(to_lora_file(written(canonical, target, BaseModel::sdxl), "", target)), canonical);
  auto diffusers = tensors_of(to_lora_file(written(canonical, "diffusers", BaseModel::sdxl), "", "diffusers"));
  for (const auto& [key, tensor] : canonical)
    if (!key.ends_with(".alpha")) {
      EXPECT_TRUE(at::equal(tensor, diffusers.at(key))) << key;
    }
}

TEST(Spell, FormsThatDifferAreConverted) {
  at::manual_seed(5);
  StateDict peft;
  std::string path = "unet.mid_block.attentions.0.proj_in";
  peft.set(path + ".lora_A.weight", at::randn({2, 4, 1, 1}));
  peft.set(path + ".lora_B.weight", at::randn({6, 2, 1, 1}));
  peft.set(path + ".lora_B.bias", at::randn({6}));
  peft.set(path + ".alpha", at::scalar_tensor(1.0));
  peft.set(path + ".lora_magnitude_vector", at::rand({1, 6, 1, 1}));
  auto kohya = written(peft, "kohya", BaseModel::sd1);
  std::string module = "lora_unet_mid_block_attentions_0_proj_in";
  EXPECT_EQ(kohya.at(module + ".dora_scale").sizes().vec(), (std::vector<int64_t>{6, 1, 1, 1}));
  EXPECT_TRUE(at::equal(kohya.at(module + ".diff_b"), peft.at(path + ".lora_B.bias") * 0.5));
  auto back = written(tensors_of(to_lora_file(kohya, "unet", "test")), "diffusers", BaseModel::sd1);
  for (const char* suffix : {".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".lora_magnitude_vector"})
    EXPECT_TRUE(at::equal(back.at(path + suffix), peft.at(path + suffix))) << suffix;
}

// Each row has its own magnitude, so that q, k and v with factors of their own stand in one layer without a loss.
TEST(Spell, MagnitudesOfPartsStandOneAfterTheOther) {
  at::manual_seed(6);
  StateDict canonical;
  std::vector<Tensor> changes, magnitudes;
  for (const char* leaf : {"to_q", "to_k", "to_v"}) {
    auto path = std::string("transformer.transformer_blocks.0.attn.") + leaf;
    double alpha = changes.empty() ? 2 : 0.5;
    add_lora(canonical, path, 6, 4, alpha);
    canonical.set(path + ".lora_magnitude_vector", at::rand({6}));
    changes.push_back(at::mm(canonical.at(path + ".lora_B.weight").to(at::kDouble),
                             canonical.at(path + ".lora_A.weight").to(at::kDouble)) *
                      (alpha / 2));
    magnitudes.push_back(canonical.at(path + ".lora_magnitude_vector"));
  }
  for (auto [target, prefix] : {std::pair("kohya", "lora_unet_joint_blocks_0_x_block_attn_qkv"),
                                {"comfy", "diffusion_model.joint_blocks.0.x_block.attn.qkv"}}) {
    auto file = written(canonical, target, BaseModel::sd3);
    auto layer = std::string(prefix);
    EXPECT_TRUE(at::equal(file.at(layer + ".dora_scale"), at::cat(magnitudes).unsqueeze(1)));
    auto down = file.at(layer + ".lora_down.weight").to(at::kDouble);
    auto scale = file.at(layer + ".alpha").item<double>() / double(down.size(0));
    expect_close(at::mm(file.at(layer + ".lora_up.weight").to(at::kDouble), down) * scale, at::cat(changes), 1e-6);
    // Parts without a magnitude beside parts with one cannot.
    auto some = canonical;
    StateDict without;
    for (const auto& [key, tensor] : canonical)
      if (key.find("to_v") == key.npos || !key.ends_with("lora_magnitude_vector")) without.set(key, tensor);
    error_of(ErrorKind::unsupported, [&] { written(without, target, BaseModel::sd3); });
  }
}

TEST(Spell, AnEmbeddingsFactorsMakeItsWeightInKohyasFiles) {
  at::manual_seed(7);
  std::string peft = "text_encoder.text_model.embeddings.token_embedding";
  StateDict canonical{{peft + ".lora_A.weight", at::randn({2, 9})}, {peft + ".lora_B.weight", at::randn({5, 2})}};
  for (const char* target : {"kohya", "comfy"}) {
    auto file = written(canonical, target, BaseModel::sd1);
    for (const auto& [key, tensor] : file)
      if (!key.ends_with(".alpha")) {
        EXPECT_EQ(tensor.size(key.ends_with("lora_up.weight") ? 0 : 1), key.ends_with("lora_up.weight") ? 9 : 5) << key;
      }
    auto back = tensors_of(to_lora_file(file, "unet", "test"));
    for (const auto& [key, tensor] : canonical) EXPECT_TRUE(at::equal(back.at(key), tensor)) << key;
  }
}

TEST(Spell, NormsHaveKohyasNames) {
  StateDict canonical{{"unet.mid_block.resnets.0.norm1.diff", at::ones({4})},
                      {"unet.mid_block.resnets.0.norm1.diff_b", at::ones({4})},
                      {"unet.mid_block.resnets.0.conv1.diff", at::ones({4, 4, 3, 3})},
                      {"unet.mid_block.resnets.0.conv1.diff_b", at::ones({4})}};
  auto file = written(canonical, "kohya", BaseModel::sd1);
  for (const char* key : {"lora_unet_mid_block_resnets_0_norm1.w_norm", "lora_unet_mid_block_resnets_0_norm1.b_norm",
                          "lora_unet_mid_block_resnets_0_conv1.diff", "lora_unet_mid_block_resnets_0_conv1.diff_b"})
    EXPECT_TRUE(file.contains(key)) << key;
}

TEST(Spell, WhatATargetCannotSayIsAnErrorWithTheLayers) {
  StateDict loha{{"unet.mid_block.attentions.0.proj_in.hada_w1_a", at::ones({4, 2})}};
  auto message =
      error_of(ErrorKind::unsupported, [&] { spell(layers_named(loha), parse_target("diffusers"), BaseModel::sd1); });
  EXPECT_NE(message.find("LoHa"), std::string::npos) << message;
  EXPECT_NE(message.find("unet.mid_block.attentions.0.proj_in"), std::string::npos) << message;
  StateDict amused;
  add_lora(amused, "transformer.transformer_layers.0.attn1.to_q");
  EXPECT_NE(
      error_of(ErrorKind::unsupported, [&] { spell(layers_named(amused), parse_target("kohya"), BaseModel::amused); })
          .find("aMUSEd"),
      std::string::npos);
  error_of(ErrorKind::unsupported, [&] { spell(layers_named(loha), parse_target("comfy"), BaseModel::unknown); });
  error_of(ErrorKind::unsupported, [&] { spell(layers_named(amused), parse_target("kohya"), BaseModel::unknown); });
  error_of(ErrorKind::usage, [&] { spell(layers_named(loha), parse_target("a1111"), BaseModel::sd1); });
  StateDict unknown;
  add_lora(unknown, "unet.some.thing");
  EXPECT_NE(
      error_of(ErrorKind::unsupported, [&] { spell(layers_named(unknown), parse_target("kohya"), BaseModel::sdxl); })
          .find("no such layer"),
      std::string::npos);
}

}  // namespace lora
