#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "files/lora_files.h"

namespace lora {

namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Comparison compared(const StateDict& a, const StateDict& b) {
  TemporaryFolder folder;
  save_safetensors(a, folder / "a.safetensors");
  save_safetensors(b, folder / "b.safetensors");
  return compare_loras(folder / "a.safetensors", folder / "b.safetensors");
}

const std::string kOne = "unet.down_blocks.0.attentions.0.proj_in", kTwo = "unet.mid_block.attentions.0.proj_in";

// Two layers of a kind that `make` gives the tensors of.
StateDict file(const std::function<StateDict()>& make) {
  StateDict all;
  for (const auto& layer : {kOne, kTwo})
    for (const auto& [suffix, tensor] : make()) all.set(layer + "." + suffix, tensor);
  return all;
}

StateDict factors(int64_t rank) {
  return {{"lora_A.weight", at::randn({rank, 12})}, {"lora_B.weight", at::randn({10, rank})}};
}

StateDict difference() { return {{"diff", at::randn({10, 12})}}; }

Tensor change(const StateDict& file, const std::string& layer) {
  if (auto* diff = file.find(layer + ".diff")) return diff->to(at::kDouble);
  return at::mm(file.at(layer + ".lora_B.weight"), file.at(layer + ".lora_A.weight")).to(at::kDouble);
}

}  // namespace

TEST(Compare, AFileWithItself) {
  auto a = file([] { return factors(3); });
  auto same = compared(a, a);
  EXPECT_NEAR(same.cosine, 1, 1e-6);
  EXPECT_EQ(same.ratio, 1);
  EXPECT_THAT(same.summary(), HasSubstr("2 layers in common: cosine 1.000000 together"));
}

TEST(Compare, IsWhatTheWholeMatricesGive) {
  at::manual_seed(1);
  auto low = file([] { return factors(3); }), other = file([] { return factors(5); }), dense = file(difference);
  for (const auto& [a, b] : {std::pair(low, other), {low, dense}, {dense, low}, {dense, file(difference)}}) {
    auto comparison = compared(a, b);
    ASSERT_EQ(comparison.rows.size(), 2u);
    for (const auto& row : comparison.rows) {
      auto x = change(a, row.layer).flatten(), y = change(b, row.layer).flatten();
      EXPECT_NEAR(row.cosine, (at::dot(x, y) / x.norm() / y.norm()).item<double>(), 1e-6);
      EXPECT_NEAR(row.ratio, (y.norm() / x.norm()).item<double>(), 1e-6 * row.ratio);
    }
    auto x = at::cat({change(a, kOne), change(a, kTwo)}).flatten(),
         y = at::cat({change(b, kOne), change(b, kTwo)}).flatten();
    EXPECT_NEAR(comparison.cosine, (at::dot(x, y) / x.norm() / y.norm()).item<double>(), 1e-6);
    EXPECT_NEAR(comparison.ratio, (y.norm() / x.norm()).item<double>(), 1e-6 * comparison.ratio);
  }
}

TEST(Compare, AlphasCount) {
  auto a = file([] { return factors(4); }), b = a;
  b.set(kTwo + ".alpha", at::scalar_tensor(8.0));
  auto comparison = compared(a, b);
  EXPECT_NEAR(comparison.rows[0].ratio, 1, 1e-6);
  EXPECT_NEAR(comparison.rows[1].ratio, 2, 1e-6);
  EXPECT_NEAR(comparison.rows[1].cosine, 1, 1e-6);
}

TEST(Compare, ListsWhatOnlyOneHas) {
  auto a = file([] { return factors(2); }), b = a, c = StateDict();
  for (const auto& [key, tensor] : a)
    if (key.starts_with(kTwo)) c.set("unet.mid_block.attentions.0.proj_out" + key.substr(kTwo.size()), tensor);
  auto comparison = compared(a, c);
  EXPECT_THAT(comparison.rows, IsEmpty());
  EXPECT_THAT(comparison.only_in_a, ElementsAre(kOne, kTwo));
  EXPECT_THAT(comparison.only_in_b, ElementsAre("unet.mid_block.attentions.0.proj_out"));
  EXPECT_THAT(comparison.summary(), HasSubstr("no layer in common"));
}

TEST(Compare, NotesKeysThatItDoesNotUnderstand) {
  StateDict a{{"unet.conv_in.lora_A.weight", at::ones({2, 4, 3, 3})},
              {"unet.conv_in.lora_B.weight", at::ones({4, 2, 1, 1})}};
  auto b = a;
  b.set("some.thing", at::ones(3));
  EXPECT_TRUE(compare_loras(a, a).notes.empty());
  auto comparison = compare_loras(a, b);
  ASSERT_EQ(comparison.notes.size(), 1u);
  EXPECT_EQ(comparison.notes[0], "state dict: 1 key not understood, the first: some.thing");
  EXPECT_NE(comparison.text().find("note: state dict"), std::string::npos);
}

TEST(Compare, LayersThatChangeNothing) {
  auto zero = file([] {
    return StateDict{{"lora_A.weight", at::randn({2, 12})}, {"lora_B.weight", at::zeros({10, 2})}};
  });
  auto same = compared(zero, zero);
  EXPECT_EQ(same.rows[0].cosine, 1);
  EXPECT_EQ(same.rows[0].ratio, 1);
  auto comparison = compared(zero, file([] { return factors(2); }));
  EXPECT_EQ(comparison.rows[0].cosine, 0);
  EXPECT_TRUE(std::isinf(comparison.rows[0].ratio));
  auto json = nlohmann::json::parse(comparison.json());
  EXPECT_TRUE(json["layers"][0]["ratio"].is_null());
}

TEST(Compare, WhatNeedsTheBaseIsComparedByItsTensors) {
  auto oft = [](double factor) {
    return file([=] { return StateDict{{"oft_blocks", at::ones({2, 5, 5}) * factor}}; });
  };
  auto comparison = compared(oft(1), oft(3));
  EXPECT_NEAR(comparison.rows[0].cosine, 1, 1e-6);
  EXPECT_NEAR(comparison.rows[0].ratio, 3, 1e-6);
  EXPECT_THAT(comparison.rows[0].note, HasSubstr("by its tensors"));
  comparison = compared(oft(1), file([] { return factors(2); }));
  EXPECT_TRUE(std::isnan(comparison.rows[0].cosine));
  EXPECT_THAT(comparison.text(), HasSubstr("OFT and LoRA, which depend on the base model"));
}

TEST(Compare, LayersThatCannotActAreTold) {
  auto sound = kohya_sd15(), broken = sound;
  auto layer = std::string("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_");
  broken.set(layer + "k.alpha", at::scalar_tensor(std::nan("")));
  broken.set(layer + "q.lora_down.weight", at::ones({0, 640}));
  broken.set(layer + "q.lora_up.weight", at::ones({640, 0}));
  auto compared = compare_loras(sound, broken);
  EXPECT_EQ(compared.only_in_a.size(), 1u);
  EXPECT_NEAR(compared.cosine, 1, 1e-6);
  size_t without_numbers = 0;
  for (const auto& row : compared.rows) without_numbers += row.note == "NaN or infinity";
  EXPECT_EQ(without_numbers, 1u);
  ASSERT_EQ(compared.notes.size(), 1u);
  EXPECT_NE(compared.notes[0].find("rank 0"), std::string::npos);
}

TEST(Compare, SaysWhatTheNumbersDoNot) {
  auto dora = file([] {
    auto layer = factors(2);
    layer.set("dora_scale", at::rand({10, 1}) + 1);
    return layer;
  });
  auto other = dora;
  other.set(kOne + ".alpha", at::scalar_tensor(8.0));
  auto comparison = compared(dora, other);
  EXPECT_THAT(comparison.rows[0].note, HasSubstr("the strengths differ: alpha 2 and 8"));
  EXPECT_THAT(comparison.rows[1].note, testing::Not(HasSubstr("differ")));
}

TEST(Compare, OtherSizesAreTold) {
  auto comparison =
      compared(file([] { return factors(2); }), file([] {
                 return StateDict{{"lora_A.weight", at::randn({2, 9})}, {"lora_B.weight", at::randn({10, 2})}};
               }));
  EXPECT_THAT(comparison.rows[0].note, HasSubstr("[10, 12] and [10, 9]"));
  EXPECT_THAT(comparison.summary(), HasSubstr("2 layers in common, but none can be compared"));
}

TEST(Compare, TakesTensorsInMemory) {
  auto a = file([] { return factors(2); });
  EXPECT_NEAR(compare_loras(a, a).cosine, 1, 1e-6);
}

}  // namespace lora
