// Layers that hold several: taken apart, put together, in float64 and to the bit.
#include "dialects/fused.h"

#include "support/compare.h"

namespace lora {

namespace {

constexpr int64_t kOut = 24, kIn = 10, kRank = 4;
const Share kParts[] = {{0, 1, 3}, {1, 2, 3}, {2, 3, 3}};

Tensor random(at::IntArrayRef shape) { return at::randn(shape); }

Module lora_module(int64_t out = kOut, int64_t rank = kRank, double alpha = 2) {
  return {{"lora_A.weight", random({rank, kIn})},
          {"lora_B.weight", random({out, rank})},
          {"alpha", at::scalar_tensor(alpha)}};
}

// What the module adds to the weight: the kinds that are products.
Tensor dense(const Module& m) {
  auto d = [&](const char* s) { return m.at(s).to(at::kDouble); };
  if (m.contains("diff")) return d("diff");
  auto alpha = d("alpha").item<double>();
  if (m.contains("hada_w1_a"))
    return alpha / double(m.at("hada_w1_b").size(0)) * at::mm(d("hada_w1_a"), d("hada_w1_b")) *
           at::mm(d("hada_w2_a"), d("hada_w2_b"));
  if (m.contains("lokr_w1")) {
    auto all = at::kron(d("lokr_w1"), d("lokr_w2"));
    if (!m.contains("lokr_rows")) return all;
    return all.slice(0, m.at("lokr_rows")[0].item<int64_t>(), m.at("lokr_rows")[1].item<int64_t>());
  }
  return alpha / double(m.at("lora_A.weight").size(0)) * at::mm(d("lora_B.weight"), d("lora_A.weight"));
}

std::vector<std::pair<Share, Module>> taken_apart(const Module& whole) {
  std::vector<std::pair<Share, Module>> parts;
  for (auto share : kParts) parts.emplace_back(share, part_of(whole, share, "test"));
  return parts;
}

std::vector<Module> modules(const std::vector<std::pair<Share, Module>>& parts) {
  std::vector<Module> all;
  for (const auto& [share, module] : parts) all.push_back(module);
  return all;
}

void expect_same_bits(const Module& a, const Module& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [suffix, tensor] : a) EXPECT_TRUE(at::equal(tensor, b.at(suffix))) << suffix;
}

}  // namespace

class FusedKinds : public testing::TestWithParam<const char*> {
 protected:
  Module make() const {
    std::string kind = GetParam();
    at::manual_seed(7);
    if (kind == "LoRA") return lora_module();
    if (kind == "diff") return {{"diff", random({kOut, kIn})}, {"diff_b", random({kOut})}};
    if (kind == "LoHa")
      return {{"hada_w1_a", random({kOut, kRank})},
              {"hada_w1_b", random({kRank, kIn})},
              {"hada_w2_a", random({kOut, kRank})},
              {"hada_w2_b", random({kRank, kIn})},
              {"alpha", at::scalar_tensor(2.0)}};
    if (kind == "LoKr_cut")
      return {{"lokr_w1", random({6, 2})}, {"lokr_w2", random({4, 5})}, {"alpha", at::scalar_tensor(1.0)}};
    return {{"lokr_w1", random({2, 2})}, {"lokr_w2", random({12, 5})}, {"alpha", at::scalar_tensor(1.0)}};
  }
};

TEST_P(FusedKinds, PartsAreTheRowsOfTheWhole) {
  auto whole = make();
  EXPECT_EQ(rows_of(whole), kOut);
  EXPECT_EQ(columns_of(whole), kIn);
  auto expected = dense(whole).chunk(3);
  auto parts = taken_apart(whole);
  for (size_t i = 0; i < parts.size(); ++i)
    EXPECT_TRUE(at::allclose(dense(parts[i].second), expected[i], 1e-14, 1e-14));
}

TEST_P(FusedKinds, PartsGoTogetherToTheSameBits) {
  auto whole = make();
  auto parts = taken_apart(whole);
  ASSERT_TRUE(same_inputs(modules(parts)));
  expect_same_bits(joined(parts, true, "test"), whole);
}

TEST_P(FusedKinds, SwappedTwiceIsAsBefore) {
  auto whole = make();
  auto swapped = with_halves_swapped(whole, "test");
  auto halves = dense(whole).chunk(2);
  EXPECT_TRUE(at::equal(dense(swapped), at::cat({halves[1], halves[0]})));
  expect_same_bits(with_halves_swapped(swapped, "test"), whole);
}

INSTANTIATE_TEST_SUITE_P(Kinds, FusedKinds, testing::Values("LoRA", "diff", "LoHa", "LoKr_cut", "LoKr"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Fused, PartsAreViews) {
  auto whole = lora_module();
  auto part = part_of(whole, kParts[1], "test");
  EXPECT_EQ(part["lora_A.weight"].data_ptr(), whole["lora_A.weight"].data_ptr());
  EXPECT_EQ(part["lora_B.weight"].storage().data_ptr(), whole["lora_B.weight"].storage().data_ptr());
}

TEST(Fused, DifferentFactorsStandInBlocks) {
  at::manual_seed(8);
  std::vector<std::pair<Share, Module>> parts;
  std::vector<Tensor> expected;
  for (auto share : kParts) {
    parts.emplace_back(share, lora_module(kOut / 3));
    expected.push_back(dense(parts.back().second));
  }
  ASSERT_FALSE(same_inputs(modules(parts)));
  auto whole = joined(parts, false, "test");
  EXPECT_EQ(whole["alpha"].item<double>(), 6);  // three times each one's
  EXPECT_TRUE(at::allclose(dense(whole), at::cat(expected), 1e-13, 1e-13));
}

TEST(Fused, StrengthsThatDifferGoIntoTheUpFactors) {
  at::manual_seed(9);
  std::vector<std::pair<Share, Module>> parts{{kParts[0], lora_module(8, 4, 1)}, {kParts[2], lora_module(8, 2, 4)}};
  auto expected = at::cat({dense(parts[0].second), at::zeros({8, kIn}, at::kDouble), dense(parts[1].second)});
  auto whole = joined(parts, false, "test");
  EXPECT_EQ(whole["lora_A.weight"].size(0), 6);
  EXPECT_TRUE(at::allclose(dense(whole), expected, 1e-6, 1e-6));
}

TEST(Fused, WhatSpansAllPartsIsRefused) {
  auto dora = lora_module();
  dora["dora_scale"] = at::ones({1, kIn});
  EXPECT_NE(error_of(ErrorKind::unsupported, [&] { part_of(dora, kParts[0], "x.qkv"); }).find("each input"),
            std::string::npos);
  Module boft{{"oft_blocks", random({2, 6, 4, 4})}, {"alpha", at::scalar_tensor(0.0)}};
  EXPECT_NE(error_of(ErrorKind::unsupported, [&] { part_of(boft, kParts[0], "x.qkv"); }).find("BOFT"),
            std::string::npos);
  error_of(ErrorKind::bad_shape, [&] { part_of(lora_module(25), kParts[0], "x.qkv"); });
}

// The limit of a rotation is of all its blocks' norm.
TEST(Fused, RotationsKeepTheLimitOfTheWhole) {
  at::manual_seed(10);
  Module whole{{"oft_blocks", random({6, 4, 4})}, {"alpha", at::scalar_tensor(1e-2)}};
  auto Q = whole["oft_blocks"] - whole["oft_blocks"].transpose(1, 2);
  auto limited = Q * (1e-2 * kOut / Q.norm().item<double>());
  for (size_t i = 0; i < 3; ++i) {
    auto part = part_of(whole, kParts[i], "test");
    EXPECT_EQ(part["alpha"].item<double>(), 0);
    auto skew = part["oft_blocks"] - part["oft_blocks"].transpose(1, 2);
    EXPECT_TRUE(at::allclose(skew, limited.slice(0, 2 * int64_t(i), 2 * int64_t(i) + 2), 1e-6, 1e-8));
  }
}

}  // namespace lora
