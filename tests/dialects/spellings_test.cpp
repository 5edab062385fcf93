// Every way to name a layer with every way to name its factors.
#include <gmock/gmock.h>

#include "dialects/dialect.h"
#include "support/compare.h"
#include "support/layers.h"

namespace lora {

namespace {

using testing::HasSubstr;

struct Ends {
  const char *down, *up;
};

const std::vector<const char*> kUNetNames = {
    "unet.mid_block.attentions.0.proj_in",
    "unet.unet.mid_block.attentions.0.proj_in",
    "unet.base_model.model.mid_block.attentions.0.proj_in",
    "base_model.model.mid_block.attentions.0.proj_in",
    "base_model.model.unet.mid_block.attentions.0.proj_in",
    "mid_block.attentions.0.proj_in",
    "middle_block.1.proj_in",
    "unet.middle_block.1.proj_in",
    "diffusion_model.middle_block.1.proj_in",
    "diffusion_model.mid_block.attentions.0.proj_in",
    "model.diffusion_model.middle_block.1.proj_in",
    "lora_unet_mid_block_attentions_0_proj_in",
    "lora_unet_mid_block_attentions_0_proj_in_",
    "lora_unet_middle_block_1_proj_in",
    "lora_unet_middle_block_1_proj_in_",
    "lycoris_mid_block_attentions_0_proj_in",
};
const std::vector<const char*> kTextNames = {
    "text_encoder.text_model.encoder.layers.0.mlp.fc1",
    "text_encoder.base_model.model.text_model.encoder.layers.0.mlp.fc1",
    "base_model.model.text_model.encoder.layers.0.mlp.fc1",
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
    "clip_l.text_model.encoder.layers.0.mlp.fc1",
    "lora_te_text_model_encoder_layers_0_mlp_fc1",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1_",
};
const std::vector<Ends> kEnds = {
    {".lora_A.weight", ".lora_B.weight"},
    {".lora_A.default.weight", ".lora_B.default.weight"},
    {".lora_A.default_0.weight", ".lora_B.default_0.weight"},
    {".lora_down.weight", ".lora_up.weight"},
    {".lora.down.weight", ".lora.up.weight"},
    {".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"},
};

}  // namespace

TEST(Spellings, EveryNameGoesWithEveryEnd) {
  auto A = at::randn({2, 4}), B = at::randn({6, 2});
  for (const auto& [names, wanted] : {std::pair(kUNetNames, "unet.mid_block.attentions.0.proj_in"),
                                      std::pair(kTextNames, "text_encoder.text_model.encoder.layers.0.mlp.fc1")})
    for (std::string name : names)
      for (const auto& [down, up] : kEnds) {
        SCOPED_TRACE(name + down);
        StateDict file{{name + down, A}, {name + up, B}, {name + ".alpha", at::scalar_tensor(0.5)}};
        auto layers = to_lora_file(file, "unet", "test").layers;
        ASSERT_EQ(layers.size(), 1u);
        EXPECT_EQ(layers[0].name(), wanted);
        EXPECT_EQ(layers[0].alpha, 0.5);
        EXPECT_TRUE(at::equal(get(layers[0].tensors, "lora_A.weight"), A));
        EXPECT_TRUE(at::equal(get(layers[0].tensors, "lora_B.weight"), B));
      }
}

// PEFT's file of one model does not say which: the names of a text encoder's layers do.
TEST(Spellings, PeftsFilesOfATextEncoderAreToldByTheirNames) {
  auto A = at::randn({2, 4}), B = at::randn({6, 2});
  const std::pair<const char*, const char*> names[] = {
      {"text_model.encoder.layers.0.mlp.fc1", "text_encoder.text_model.encoder.layers.0.mlp.fc1"},
      {"encoder.layers.0.mlp.fc1", "text_encoder.text_model.encoder.layers.0.mlp.fc1"},
      {"embeddings.token_embedding", "text_encoder.text_model.embeddings.token_embedding"},
      {"embeddings.position_embedding", "text_encoder.text_model.embeddings.position_embedding"},
      {"final_layer_norm", "text_encoder.text_model.final_layer_norm"},
      {"text_projection", "text_encoder.text_projection"},
      {"shared", "text_encoder_3.shared"},
      {"encoder.block.0.layer.0.SelfAttention.q", "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q"},
      {"encoder.final_layer_norm", "text_encoder_3.encoder.final_layer_norm"},
      {"conv_in", "unet.conv_in"},
      {"time_embedding.linear_1", "unet.time_embedding.linear_1"},
  };
  for (const auto& [name, wanted] : names)
    for (const auto& [down, up] : {Ends{".lora_A.weight", ".lora_B.weight"},
                                   {".lora_A.default", ".lora_B.default"},
                                   {".lora_embedding_A", ".lora_embedding_B"}}) {
      auto key = std::string("base_model.model.") + name;
      SCOPED_TRACE(key + down);
      auto layers = to_lora_file({{key + down, A}, {key + up, B}}, "unet", "test").layers;
      ASSERT_EQ(layers.size(), 1u);
      EXPECT_EQ(layers[0].name(), wanted);
      EXPECT_TRUE(at::equal(get(layers[0].tensors, "lora_A.weight"), A));
      EXPECT_TRUE(at::equal(get(layers[0].tensors, "lora_B.weight"), B));
    }
}

// As PEFT names it, and as kohya's family does.
TEST(Spellings, TheUpFactorsBias) {
  auto A = at::randn({2, 4}), B = at::randn({6, 2}), bias = at::randn({6});
  for (std::string name : {"unet.mid_block.attentions.0.proj_in", "lora_unet_mid_block_attentions_0_proj_in",
                           "lora_unet_middle_block_1_proj_in", "diffusion_model.middle_block.1.proj_in"})
    for (const char* end :
         {".lora_B.bias", ".lora_B.default.bias", ".lora_up.bias", ".lora.up.bias", ".lora_linear_layer.up.bias"}) {
      SCOPED_TRACE(name + end);
      auto file = to_lora_file({{name + ".lora_down.weight", A}, {name + ".lora_up.weight", B}, {name + end, bias}},
                               "unet", "test");
      ASSERT_EQ(file.layers.size(), 1u);
      EXPECT_EQ(file.layers[0].kind, "LoRA with biases");
      EXPECT_TRUE(at::equal(get(file.layers[0].tensors, "lora_B.bias"), bias));
      EXPECT_TRUE(file.unmatched.empty());
    }
}

// What `transformer.` is cut to where as much was cut off as `diffusion_model.` has.
TEST(Spellings, ListsOfBlocksThatWereCutAreWhole) {
  for (const char* prefix : {"diffusion_model.", ""}) {
    auto key = std::string(prefix) + "sformer_blocks.0.attn.to_q.lora_A.weight";
    auto single = std::string(prefix) + "le_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight";
    StateDict file{{key, at::zeros({1, 6144})}, {single, at::zeros({1, 6144})}};
    auto read = to_lora_file(file, "", "test");
    EXPECT_EQ(read.base_model, BaseModel::flux2);
    EXPECT_EQ(read.layers.at(0).name(), "transformer.transformer_blocks.0.attn.to_q");
    EXPECT_EQ(read.layers.at(1).name(), "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj");
  }
}

// ComfyUI's factors make an embedding's weight as it stands; PEFT's make its transpose.
TEST(Spellings, AnEmbeddingsFactorsAreTurned) {
  at::manual_seed(1);
  auto down = at::randn({2, 5}), up = at::randn({9, 2});  // 9 words of width 5
  std::string comfy = "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding";
  std::string peft = "text_encoder.text_model.embeddings.token_embedding";
  auto weight = at::randn({9, 5});
  Site site{.path = "text_model.embeddings.token_embedding", .kind = SiteKind::embedding, .weight = weight};
  auto wanted = weight.to(at::kDouble) + at::mm(up.to(at::kDouble), down.to(at::kDouble));
  for (const auto& file : {StateDict{{comfy + ".lora_up.weight", up}, {comfy + ".lora_down.weight", down}},
                           StateDict{{peft + ".lora_embedding_A", up.t()}, {peft + ".lora_embedding_B", down.t()}},
                           StateDict{{comfy + ".lora_up.weight", down.t()}, {comfy + ".lora_down.weight", up.t()}}}) {
    auto layer = to_lora_file(file, "", "test").layers.at(0);
    auto delta = make_delta(layer, site, {.base = [](const Site& s) { return s.weight; }, .label = "test"});
    expect_close(with_effect(delta->effect(1, weight), site.kind, weight).to(at::kDouble), wanted, 1e-6);
  }
}

TEST(Spellings, APicklesOwnNameAroundAllKeysIsPassedOver) {
  auto inner = std::string("unet.mid_block.attentions.0.proj_in.lora_A.weight");
  for (const char* outer : {"lora_weights.", "model.state_dict.", "net."}) {
    auto read = to_lora_file({{outer + inner, at::ones({2, 4})}}, "unet", "test");
    EXPECT_EQ(tensors_of(read).begin()->first, inner) << outer;
    EXPECT_EQ(read.layers.at(0).keys.begin()->second, outer + inner);
  }
  auto beside = to_lora_file(
      {{"optimizer.state.0.exp_avg", at::ones({2})}, {"lora." + inner, at::ones({2, 4})}, {"step", at::ones({})}},
      "unet", "test");
  EXPECT_EQ(tensors_of(beside).size(), 1u);
  ASSERT_EQ(beside.unmatched.size(), 2u);
  EXPECT_EQ(beside.unmatched[0].key, "optimizer.state.0.exp_avg");
}

TEST(Spellings, WhatIsNotUnderstoodIsCalledWhatItIs) {
  auto message = [](const std::vector<std::string>& keys, ErrorKind kind) {
    StateDict file;
    for (const auto& key : keys) file.set(key, at::ones({2, 2}));
    return error_of(kind, [&] { to_lora_file(file, "unet", "test"); });
  };
  auto layer = std::string("lora_unet_mid_block_attentions_0_proj_in");
  EXPECT_THAT(message({layer + ".tlora_p", layer + ".tlora_q"}, ErrorKind::unsupported),
              AllOf(HasSubstr("of a kind that is not known here"), HasSubstr("tlora_p, tlora_q")));
  for (const char* end : {".q_layer.weight", ".p_layer.weight", ".lambda_layer"})
    EXPECT_THAT(message({layer + end}, ErrorKind::unsupported), AllOf(HasSubstr("T-LoRA"), HasSubstr("timestep")));
  EXPECT_THAT(message({"some.thing.lora_A.weight", "other.lora_B.weight"}, ErrorKind::bad_key),
              AllOf(HasSubstr("holds an adapter"), HasSubstr("some.thing.lora_A.weight")));
  EXPECT_THAT(message({"weight", "bias"}, ErrorKind::bad_key), HasSubstr("no LoRA in this file"));
}

TEST(Spellings, KronAsScaleIsNotInTheFile) {
  for (auto [module, noted] :
       {std::pair("networks.krona", "KronA"), {"networks.cdka", "CDKA"}, {"lycoris.kohya", ""}}) {
    StateDict file{{"lora_unet_mid_block_attentions_0_proj_in.lokr_w1", at::ones({2, 2})},
                   {"lora_unet_mid_block_attentions_0_proj_in.lokr_w2", at::ones({4, 4})}};
    file.metadata["ss_network_module"] = module;
    auto notes = to_lora_file(file, "unet", "test").notes;
    ASSERT_EQ(notes.size(), *noted ? 1u : 0u);
    if (!notes.empty()) {
      EXPECT_THAT(notes[0], HasSubstr(noted));
    }
  }
}

}  // namespace lora
