#include "dialects/bundled_embeddings.h"

#include <ATen/ATen.h>

#include "dialects/dialect.h"
#include "support/compare.h"
#include "support/layers.h"

namespace lora {

TEST(BundledEmbeddings, AreReadFromTheRight) {
  auto expect = [](const std::string& key, const std::string& word, const std::string& component) {
    SCOPED_TRACE(key);
    auto read = read_bundled_key(key);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->word, word);
    EXPECT_EQ(read->component, component);
    EXPECT_EQ(read->problem.empty(), !component.empty());
  };
  expect("bundle_emb.toy.string_to_param.*", "toy", "text_encoder");
  expect("bundle_emb.toy.emb_params", "toy", "text_encoder");
  expect("bundle_emb.toy.clip_l", "toy", "text_encoder");
  expect("bundle_emb.toy.clip_g", "toy", "text_encoder_2");
  expect("bundle_emb.toy.t5", "toy", "text_encoder_3");
  expect("bundle_emb.toy.t5xxl", "toy", "text_encoder_3");
  expect("bundle_emb.v1.5 (new).look.clip_l", "v1.5 (new).look", "text_encoder");
  expect("bundle_emb.clip_g.clip_l", "clip_g", "text_encoder");
  for (std::string tail : {"clip_l_out", "clip_g_out", "t5_out"}) {
    expect("bundle_emb.toy." + tail, "toy", "");
    EXPECT_NE(read_bundled_key("bundle_emb.toy." + tail)->problem.find("puts out"), std::string::npos);
  }
  for (auto key : {"bundle_emb.toy.vectors", "bundle_emb.toy", "bundle_emb..clip_l", "bundle_emb.clip_l"})
    expect(key, "", "");
  EXPECT_FALSE(read_bundled_key("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"));
}

TEST(BundledEmbeddings, StandBesideTheLora) {
  auto vectors = at::ones({2, 8}, at::kHalf);
  StateDict file{{"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", at::ones({2, 4})},
                 {"lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", at::ones({4, 2})},
                 {"bundle_emb.toy.clip_g", vectors},
                 {"bundle_emb.toy.clip_g_out", vectors}};
  auto canonical = to_lora_file(file, "unet", "test");
  EXPECT_EQ(tensors_of(canonical).size(), 2);
  EXPECT_EQ(canonical.dialect, "kohya");
  ASSERT_EQ(canonical.embeddings.size(), 1);
  EXPECT_EQ(canonical.embeddings[0].key, "bundle_emb.toy.clip_g");
  EXPECT_TRUE(canonical.embeddings[0].vectors.is_same(vectors));
  ASSERT_EQ(canonical.unmatched.size(), 1);
  EXPECT_EQ(canonical.unmatched[0].key, "bundle_emb.toy.clip_g_out");
}

TEST(BundledEmbeddings, AloneAreNoLora) {
  StateDict file{{"bundle_emb.toy.clip_l", at::ones({2, 8})}};
  auto message = error_of(ErrorKind::bad_key, [&] { to_lora_file(file, "unet", "test"); });
  EXPECT_NE(message.find("textual inversion"), std::string::npos) << message;
}

TEST(TextualInversions, AreToldWithTheirSizes) {
  const auto rows = at::ones({2, 8});
  auto told = [](const StateDict& file) {
    return error_of(ErrorKind::bad_key, [&] { to_lora_file(file, "unet", "test"); });
  };
  const std::string start = "test: no LoRA in this file; it looks like a textual inversion embedding (it has ",
                    end = ". load_textual_inversion() loads it";
  EXPECT_EQ(told({{"string_to_param.*", rows}}), start + "\"string_to_param.*\"), of 2 vectors of width 8" + end);
  EXPECT_EQ(told({{"emb_params", rows[0]}}), start + "\"emb_params\"), of 1 vector of width 8" + end);
  EXPECT_EQ(told({{"<toy>", at::ones({2, 768})}}), start + "\"<toy>\"), of 2 vectors of width 768" + end);
  EXPECT_EQ(
      told({{"clip_l", rows}, {"clip_g", at::ones({2, 12})}}),
      start + "\"clip_g\"), of 2 vectors of width 8 for text_encoder, 2 vectors of width 12 for text_encoder_2" + end);
  EXPECT_EQ(told({{"proj", rows}}).find("textual inversion"), std::string::npos);  // of no text encoder's width
}

}  // namespace lora
