// Layers that hold several: taken apart, put together, in float64 and to the bit.
#include <ATen/ATen.h>

#include "kinds/kinds.h"
#include "support/compare.h"

namespace lora {

namespace {

constexpr int64_t kOut = 24, kIn = 10, kRank = 4;
const RowSlice kParts[] = {{0, 1, 3}, {1, 2, 3}, {2, 3, 3}};

Tensor random(at::IntArrayRef shape) { return at::randn(shape); }

LoraLayer layer_of(LayerTensors tensors, std::optional<double> alpha = {}) {
  LoraLayer layer{.component = "unet", .path = "x"};
  layer.tensors = std::move(tensors);
  layer.alpha = alpha;
  return layer;
}

LoraLayer lora_layer(int64_t out = kOut, int64_t rank = kRank, double alpha = 2) {
  return layer_of({{"lora_A.weight", random({rank, kIn})}, {"lora_B.weight", random({out, rank})}}, alpha);
}

// What the module adds to the weight: the kinds that are products.
Tensor dense(const LoraLayer& layer) {
  const auto& m = layer.tensors;
  auto d = [&](const char* s) { return get(m, s).to(at::kDouble); };
  if (m.contains("diff")) return d("diff");
  auto alpha = layer.alpha.value_or(0);
  if (m.contains("hada_w1_a"))
    return alpha / double(get(m, "hada_w1_b").size(0)) * at::mm(d("hada_w1_a"), d("hada_w1_b")) *
           at::mm(d("hada_w2_a"), d("hada_w2_b"));
  if (m.contains("lokr_w1")) {
    auto all = at::kron(d("lokr_w1"), d("lokr_w2"));
    if (!m.contains("lokr_rows")) return all;
    return all.slice(0, get(m, "lokr_rows")[0].item<int64_t>(), get(m, "lokr_rows")[1].item<int64_t>());
  }
  return alpha / double(get(m, "lora_A.weight").size(0)) * at::mm(d("lora_B.weight"), d("lora_A.weight"));
}

std::vector<SlicedLayer> taken_apart(const LoraLayer& whole) {
  std::vector<SlicedLayer> parts;
  for (auto slice : kParts) parts.push_back({slice, cut(whole, slice, "test")});
  return parts;
}

void expect_same_bits(const LoraLayer& a, const LoraLayer& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  EXPECT_EQ(a.alpha, b.alpha);
  for (const auto& [suffix, tensor] : a.tensors) EXPECT_TRUE(at::equal(tensor, get(b.tensors, suffix))) << suffix;
}

}  // namespace

class FusedKinds : public testing::TestWithParam<const char*> {
 protected:
  LoraLayer make() const {
    std::string kind = GetParam();
    at::manual_seed(7);
    if (kind == "LoRA") return lora_layer();
    if (kind == "diff") return layer_of({{"diff", random({kOut, kIn})}, {"diff_b", random({kOut})}});
    if (kind == "LoHa")
      return layer_of({{"hada_w1_a", random({kOut, kRank})},
                       {"hada_w1_b", random({kRank, kIn})},
                       {"hada_w2_a", random({kOut, kRank})},
                       {"hada_w2_b", random({kRank, kIn})}},
                      2);
    if (kind == "LoKr_cut") return layer_of({{"lokr_w1", random({6, 2})}, {"lokr_w2", random({4, 5})}}, 1);
    return layer_of({{"lokr_w1", random({2, 2})}, {"lokr_w2", random({12, 5})}}, 1);
  }
};

TEST_P(FusedKinds, PartsAreTheRowsOfTheWhole) {
  auto whole = make();
  EXPECT_EQ(size_of(whole.tensors).rows, kOut);
  EXPECT_EQ(size_of(whole.tensors).columns, kIn);
  auto expected = dense(whole).chunk(3);
  auto parts = taken_apart(whole);
  for (size_t i = 0; i < parts.size(); ++i) EXPECT_TRUE(at::allclose(dense(parts[i].layer), expected[i], 1e-14, 1e-14));
}

TEST_P(FusedKinds, PartsGoTogetherToTheSameBits) {
  auto whole = make();
  auto parts = taken_apart(whole);
  ASSERT_TRUE(kind_of(whole.tensors)->same_inputs(parts));
  expect_same_bits(join(parts, "test"), whole);
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
  auto whole = lora_layer();
  auto part = cut(whole, kParts[1], "test");
  EXPECT_EQ(part.tensors["lora_A.weight"].data_ptr(), whole.tensors["lora_A.weight"].data_ptr());
  EXPECT_EQ(part.tensors["lora_B.weight"].storage().data_ptr(), whole.tensors["lora_B.weight"].storage().data_ptr());
}

TEST(Fused, DifferentFactorsStandInBlocks) {
  at::manual_seed(8);
  std::vector<SlicedLayer> parts;
  std::vector<Tensor> expected;
  for (auto slice : kParts) {
    parts.push_back({slice, lora_layer(kOut / 3)});
    expected.push_back(dense(parts.back().layer));
  }
  ASSERT_FALSE(kind_of(parts[0].layer.tensors)->same_inputs(parts));
  auto whole = join(parts, "test");
  EXPECT_EQ(whole.alpha, 6);  // three times each one's
  EXPECT_TRUE(at::allclose(dense(whole), at::cat(expected), 1e-13, 1e-13));
}

TEST(Fused, StrengthsThatDifferGoIntoTheUpFactors) {
  at::manual_seed(9);
  std::vector<SlicedLayer> parts{{kParts[0], lora_layer(8, 4, 1)}, {kParts[2], lora_layer(8, 2, 4)}};
  auto expected = at::cat({dense(parts[0].layer), at::zeros({8, kIn}, at::kDouble), dense(parts[1].layer)});
  auto whole = join(parts, "test");
  EXPECT_EQ(whole.tensors["lora_A.weight"].size(0), 6);
  EXPECT_TRUE(at::allclose(dense(whole), expected, 1e-6, 1e-6));
}

TEST(Fused, WhatSpansAllPartsIsRefused) {
  auto dora = lora_layer();
  dora.tensors["dora_scale"] = at::ones({1, kIn});
  EXPECT_NE(error_of(ErrorKind::unsupported, [&] { cut(dora, kParts[0], "x.qkv"); }).find("each input"),
            std::string::npos);
  auto boft = layer_of({{"oft_blocks", random({2, 6, 4, 4})}}, 0);
  EXPECT_NE(error_of(ErrorKind::unsupported, [&] { cut(boft, kParts[0], "x.qkv"); }).find("BOFT"), std::string::npos);
  error_of(ErrorKind::bad_shape, [&] { cut(lora_layer(25), kParts[0], "x.qkv"); });
}

// The limit of a rotation is of all its blocks' norm.
TEST(Fused, RotationsKeepTheLimitOfTheWhole) {
  at::manual_seed(10);
  auto whole = layer_of({{"oft_blocks", random({6, 4, 4})}}, 1e-2);
  auto Q = whole.tensors["oft_blocks"] - whole.tensors["oft_blocks"].transpose(1, 2);
  auto limited = Q * (1e-2 * kOut / Q.norm().item<double>());
  for (size_t i = 0; i < 3; ++i) {
    auto part = cut(whole, kParts[i], "test");
    EXPECT_EQ(part.alpha, 0);
    auto skew = part.tensors["oft_blocks"] - part.tensors["oft_blocks"].transpose(1, 2);
    EXPECT_TRUE(at::allclose(skew, limited.slice(0, 2 * int64_t(i), 2 * int64_t(i) + 2), 1e-6, 1e-8));
  }
}

}  // namespace lora
