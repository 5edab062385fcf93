// Kinds of deltas against their formulas in float64, on sizes where they are factors of low rank and on others where
// they are whole weights.
#include "nn/deltas/bias.h"
#include "nn/deltas/dora.h"
#include "nn/deltas/glora.h"
#include "nn/deltas/loha.h"
#include "nn/deltas/lokr.h"
#include "nn/deltas/oft.h"
#include "support/compare.h"

namespace lora {

namespace {

constexpr double kTolerance = 1e-5;  // float32's rounding, of the largest value
const double kStrengths[] = {1, 0.5, -0.7, 0};

Site site_of(std::vector<int64_t> shape, Dtype dtype = at::kFloat) {
  Site site;
  site.path = "layer";
  site.kind = shape.size() == 4 ? SiteKind::conv2d : SiteKind::linear;
  site.weight = at::randn(shape).to(dtype);
  return site;
}

Tensor wide(const Tensor& t) { return t.to(at::kDouble); }

// What an effect adds to the weight, in float64.
Tensor change(const Effect& e, const Tensor& W) {
  auto matrix = wide(W).flatten(1), sum = at::zeros_like(matrix);
  if (e.A.defined()) sum = sum + e.scale * at::mm(wide(e.B).flatten(1), wide(e.A).flatten(1));
  if (e.weight.defined()) sum = sum + wide(e.weight).flatten(1);
  if (e.gain.defined()) sum = sum + matrix * (wide(e.gain) - 1).unsqueeze(1);
  if (e.input_gain.defined())
    sum = sum + matrix * (wide(e.input_gain) - 1).repeat_interleave(matrix.size(1) / e.input_gain.size(0));
  return sum.view(W.sizes());
}

void expect_change(const Delta& delta, const Site& site, const Tensor& wanted, double tolerance = kTolerance) {
  for (auto s : kStrengths) {
    auto got = change(delta.effect(s, site.weight), site.weight);
    EXPECT_LE((got - s * wanted).abs().max().item<double>(), tolerance * wanted.abs().max().item<double>()) << s;
  }
}

StateDict loha_tensors(int64_t out, int64_t columns, int64_t r) {
  return {{"hada_w1_a", at::randn({out, r})},
          {"hada_w1_b", at::randn({r, columns})},
          {"hada_w2_a", at::randn({out, r})},
          {"hada_w2_b", at::randn({r, columns})}};
}

Tensor loha(const StateDict& t) {
  return at::mm(wide(t.at("hada_w1_a")), wide(t.at("hada_w1_b"))) *
         at::mm(wide(t.at("hada_w2_a")), wide(t.at("hada_w2_b")));
}

}  // namespace

struct Size {
  std::vector<int64_t> shape;
  int64_t rank;
  bool dense;
};

class Sizes : public testing::TestWithParam<Size> {
 protected:
  void SetUp() override { at::manual_seed(11); }
  int64_t out() const { return GetParam().shape[0]; }
  int64_t columns() const { return c10::multiply_integers(GetParam().shape) / out(); }
};

TEST_P(Sizes, LohaIsTheProductByElements) {
  auto site = site_of(GetParam().shape);
  auto tensors = loha_tensors(out(), columns(), GetParam().rank);
  auto delta = make_loha(site, tensors, {1, 0.25}, "test");
  EXPECT_EQ(delta->is_dense(), GetParam().dense);
  expect_change(*delta, site, 0.25 * loha(tensors).view(site.weight.sizes()));
}

TEST_P(Sizes, LokrIsTheKroneckerProduct) {
  auto site = site_of(GetParam().shape);
  auto r = GetParam().rank;
  StateDict tensors{{"lokr_w1", at::randn({2, 2})},
                    {"lokr_w2_a", at::randn({out() / 2, r})},
                    {"lokr_w2_b", at::randn({r, columns() / 2})}};
  auto delta = make_lokr(site, tensors, {1, 0.5}, "test");
  EXPECT_EQ(delta->rank(), r);
  auto wanted = at::kron(wide(tensors.at("lokr_w1")),
                         at::mm(wide(tensors.at("lokr_w2_a")), wide(tensors.at("lokr_w2_b"))).contiguous());
  expect_change(*delta, site, 0.5 * wanted.view(site.weight.sizes()));
}

// DoRA around a kind: W + k (W' − W), W' brought to magnitudes by outputs or inputs.
TEST_P(Sizes, DoraWrapsAnyKind) {
  auto site = site_of(GetParam().shape);
  auto tensors = loha_tensors(out(), columns(), GetParam().rank);
  auto V = wide(site.weight) + 0.1 * loha(tensors).view(site.weight.sizes());
  for (bool by_output : {true, false}) {
    std::vector<int64_t> shape(site.weight.dim(), 1);
    shape[by_output ? 0 : 1] = site.weight.size(by_output ? 0 : 1);
    auto m = at::rand(shape) + 0.5;
    auto delta = LycorisDoraDelta(make_loha(site, tensors, {1, 0.1}, "test"), m, site.weight, "test");
    std::vector<int64_t> over{1, 2, 3};
    if (!by_output) over = {0, 2, 3};
    over.resize(site.weight.dim() - 1);
    auto norm = V.norm(2, over, /*keepdim=*/true);
    expect_change(delta, site, wide(m) * V / norm - wide(site.weight));
  }
}

INSTANTIATE_TEST_SUITE_P(Deltas, Sizes,
                         testing::Values(Size{{48, 40}, 2, false}, Size{{48, 40}, 6, true},
                                         Size{{32, 48, 1, 1}, 3, false}, Size{{16, 12, 3, 3}, 2, false},
                                         Size{{16, 12, 3, 3}, 4, true}),
                         [](const auto& test) { return "Size" + std::to_string(test.index); });

TEST(Deltas, LokrRowsAreAPartOfTheProduct) {
  at::manual_seed(12);
  auto site = site_of({8, 12});
  StateDict tensors{
      {"lokr_w1", at::randn({4, 3})}, {"lokr_w2", at::randn({6, 4})}, {"lokr_rows", at::tensor({8, 16}, at::kLong)}};
  auto delta = make_lokr(site, tensors, {0, 1}, "test");
  expect_change(*delta, site, at::kron(wide(tensors.at("lokr_w1")), wide(tensors.at("lokr_w2"))).slice(0, 8, 16));
}

TEST(Deltas, GloraOfConvolutionsGoesThroughTheWeight) {
  at::manual_seed(13);
  for (const auto& shape : {std::vector<int64_t>{20, 14}, {20, 14, 1, 1}, {20, 14, 3, 3}}) {
    auto site = site_of(shape);
    auto columns = site.weight.numel() / 20;
    StateDict tensors{{"a1.weight", at::randn({14, 2})},
                      {"a2.weight", at::randn({2, 14})},
                      {"b1.weight", at::randn({20, 2})},
                      {"b2.weight", at::randn({2, columns})}};
    auto d = [&](const char* name) { return wide(tensors.at(name)); };
    auto W = wide(site.weight).view({20, 14, -1});
    auto wanted = at::einsum("ojp,ji->oip", {W, at::mm(d("a1.weight"), d("a2.weight"))}).reshape({20, columns}) +
                  at::mm(d("b1.weight"), d("b2.weight"));
    auto delta = make_glora(site, tensors, {2, 0.5}, site.weight, "test");
    EXPECT_EQ(delta->is_dense(), columns != 14);
    expect_change(*delta, site, 0.5 * wanted.view(shape));
  }
}

// Each half way: R and its rescaling are mixed with what changes nothing.
TEST(Deltas, RotationsKeepNormsAndMixByStrength) {
  at::manual_seed(14);
  auto site = site_of({12, 10});
  auto delta = make_oft(site, {{"oft_blocks", at::randn({3, 4, 4})}}, 0, "test");
  auto turned = wide(site.weight) + change(delta->effect(1, site.weight), site.weight);
  EXPECT_TRUE(at::allclose(turned.view({3, 4, 10}).norm(2, 1), wide(site.weight).view({3, 4, 10}).norm(2, 1), 1e-5));
  auto full = change(delta->effect(1, site.weight), site.weight);
  expect_change(*delta, site, full);  // linear in the strength
  auto limited = make_oft(site, {{"oft_blocks", at::randn({3, 4, 4})}}, 1e-6, "test");
  EXPECT_LT(change(limited->effect(1, site.weight), site.weight).abs().max().item<double>(), 1e-3);
  error_of(ErrorKind::bad_shape, [&] { make_oft(site, {{"oft_blocks", at::randn({5, 4, 4})}}, 0, "test"); });
}

TEST(Deltas, ABiasGoesBesideAnyKind) {
  at::manual_seed(15);
  auto site = site_of({48, 40});
  auto bias = at::randn({48});
  BiasedDelta delta(make_loha(site, loha_tensors(48, 40, 2), {1, 1}, "test"), bias, site, "test");
  EXPECT_TRUE(at::allclose(delta.effect(0.5, site.weight).bias, bias * 0.5));
  EXPECT_TRUE(delta.tensors().contains("diff_b"));
  error_of(ErrorKind::bad_shape, [&] {
    BiasedDelta(make_loha(site, loha_tensors(48, 40, 2), {1, 1}, "test"), at::randn({3}), site, "test");
  });
}

// In halves a kind is as exact as its own numbers: sums are made in float32.
TEST(Deltas, HalvesAreRoundedOnce) {
  at::manual_seed(16);
  auto site = site_of({48, 40}, at::kBFloat16);
  auto tensors = loha_tensors(48, 40, 6);
  StateDict rounded;
  for (const auto& [name, t] : tensors) rounded.set(name, t.to(at::kBFloat16));
  auto delta = make_loha(site, tensors, {1, 0.25}, "test");
  expect_change(*delta, site, 0.25 * loha(rounded));
  expect_change(*delta->to(at::kCPU, at::kBFloat16), site, 0.25 * loha(rounded));
}

TEST(Deltas, WhatDoesNotFitIsSaid) {
  auto site = site_of({48, 40});
  EXPECT_NE(error_of(ErrorKind::bad_shape, [&] { make_loha(site, loha_tensors(48, 41, 2), {}, "a.b"); }).find("41"),
            std::string::npos);
  StateDict small{{"lokr_w1", at::randn({2, 2})}, {"lokr_w2", at::randn({24, 21})}};
  EXPECT_NE(error_of(ErrorKind::bad_shape, [&] { make_lokr(site, small, {}, "a.b"); }).find("a.b"), std::string::npos);
}

}  // namespace lora
