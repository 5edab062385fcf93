#include "dialects/dialect.h"

#include "dialects/architecture.h"
#include "dialects/names.h"
#include "support/compare.h"

namespace lora {

namespace {

StateDict file(const std::vector<std::string>& keys) {
  StateDict tensors;
  for (const auto& key : keys) tensors.set(key, at::ones({2, 2}));
  return tensors;
}

// What one key becomes, and who read it.
std::pair<std::string, std::string> read(const std::string& key) {
  auto canonical = to_canonical(file({key}), "unet", "test");
  return {canonical.tensors.begin()->first, canonical.dialect};
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
    auto canonical = to_canonical(file(keys), "unet", "test");
    EXPECT_EQ(canonical.tensors.size(), 3u);
    EXPECT_EQ(canonical.dialect, "diffusers + diffusers-2023");
  }
}

TEST(Dialects, UnknownKeysAreListedAndOthersKept) {
  auto canonical = to_canonical(
      file({"lora_unet_mid_block_resnets_0_conv1.lora_down.weight", "lora_unet_no_such_thing.lora_down.weight"}),
      "unet", "t");
  EXPECT_EQ(canonical.tensors.size(), 1u);
  ASSERT_EQ(canonical.unmatched.size(), 1u);
  EXPECT_EQ(canonical.unmatched[0].key, "lora_unet_no_such_thing.lora_down.weight");
}

TEST(Dialects, TwoSpellingsOfOneTensorAreNotAdded) {
  auto canonical = to_canonical(
      file({"lora_unet_mid_block_resnets_0_conv1.lora_down.weight", "unet.mid_block.resnets.0.conv1.lora_A.weight"}),
      "unet", "t");
  EXPECT_EQ(canonical.tensors.size(), 1u);
  EXPECT_EQ(canonical.unmatched.size(), 1u);
}

TEST(Dialects, OtherAlgorithmsAreRefusedByName) {
  std::string module = "lora_unet_mid_block_attentions_0_proj_in";
  for (auto [suffix, name] : {std::pair{".hada_w1_a", "LoHa"},
                              {".lokr_w1", "LoKr"},
                              {".oft_blocks", "OFT"},
                              {".lora_mid.weight", "tucker"}}) {
    auto message =
        error_of(ErrorKind::unsupported, [&] { to_canonical(file({module + suffix}), "unet", "style.safetensors"); });
    EXPECT_NE(message.find(name), std::string::npos) << message;
    EXPECT_NE(message.find("style.safetensors"), std::string::npos) << message;
  }
}

TEST(Dialects, OtherFilesAreToldApart) {
  for (auto [key, what] : {std::pair{"model.diffusion_model.out.2.weight", "checkpoint"},
                           {"string_to_param.*", "textual inversion"},
                           {"time_embedding.linear_1.weight", "UNet's own weights"},
                           {"lllite_unet_x.down.weight", "LLLite"}}) {
    auto message = error_of(ErrorKind::bad_key, [&] { to_canonical(file({key}), "unet", "f"); });
    EXPECT_NE(message.find(what), std::string::npos) << message;
  }
  EXPECT_NE(error_of(ErrorKind::bad_key, [] { to_canonical({}, "unet", "f"); }).find("no tensors"), std::string::npos);
}

TEST(Names, FlatNamesAreOneToOne) {
  EXPECT_EQ(unflatten("up_blocks_3_attentions_2_proj_out"), "up_blocks.3.attentions.2.proj_out");
  EXPECT_EQ(unflatten("down_blocks_0_downsamplers_0_conv"), "down_blocks.0.downsamplers.0.conv");
  EXPECT_EQ(unflatten("conv_in"), "conv_in");
  EXPECT_EQ(unflatten("time_embedding_linear_2"), "time_embedding.linear_2");
  EXPECT_EQ(unflatten("down_blocks_0_mystery"), std::nullopt);
  EXPECT_EQ(unflatten(""), std::nullopt);
  EXPECT_EQ(unflatten("conv_in_"), std::nullopt);
}

TEST(Architecture, IsToldByTheTextEmbeddingsWidth) {
  StateDict tensors{
      {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", at::zeros({4, 2048})}};
  EXPECT_EQ(architecture_of(tensors).name, "SDXL");
  EXPECT_EQ(architecture_of(tensors).cross_attention, 2048);
  EXPECT_EQ(architecture_of({}).name, "");
  StateDict sgm{{"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight", at::zeros({4, 2048})}};
  EXPECT_EQ(architecture_of(sgm).name, "SDXL");
  EXPECT_EQ(
      architecture_of(StateDict{{"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight", at::zeros({4, 8})}})
          .name,
      "SD 3");
}

}  // namespace lora
