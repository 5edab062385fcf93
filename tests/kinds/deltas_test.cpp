// Kinds of deltas against their formulas in float64, on sizes where they are factors of low rank and on others where
// they are whole weights.
#include "kinds/dora.h"
#include "support/compare.h"
#include "support/layers.h"

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

// W1 or W2 of LoKr, whole or of that rank; its tensors are added.
Tensor factor(StateDict& tensors, const std::string& name, std::vector<int64_t> size, int64_t rank) {
  if (rank == 0) {
    tensors.set(name, at::randn(size));
    return wide(tensors.at(name));
  }
  tensors.set(name + "_a", at::randn({size[0], rank}));
  tensors.set(name + "_b", at::randn({rank, size[1]}));
  return at::mm(wide(tensors.at(name + "_a")), wide(tensors.at(name + "_b")));
}

StateDict glora_tensors(int64_t out, int64_t in, int64_t columns, int64_t r) {
  return {{"a1.weight", at::randn({in, r})},
          {"a2.weight", at::randn({r, in})},
          {"b1.weight", at::randn({out, r})},
          {"b2.weight", at::randn({r, columns})}};
}

Tensor glora_change(const StateDict& t, const Tensor& W) {
  auto d = [&](const char* name) { return wide(t.at(name)); };
  auto positions = W.view({W.size(0), W.size(1), -1});
  auto through = at::einsum("ojp,ji->oip", {positions, at::mm(d("a1.weight"), d("a2.weight"))});
  return through.flatten(1) + at::mm(d("b1.weight"), d("b2.weight"));
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
  auto delta = delta_of(site, tensors, {{1, 0.25}});
  EXPECT_EQ(delta->is_dense(), GetParam().dense);
  expect_change(*delta, site, 0.25 * loha(tensors).view(site.weight.sizes()));
}

TEST_P(Sizes, LokrIsTheKroneckerProduct) {
  auto site = site_of(GetParam().shape);
  auto r = GetParam().rank;
  for (bool left : {false, true})
    for (bool right : {false, true}) {
      SCOPED_TRACE(std::to_string(left) + std::to_string(right));
      StateDict tensors;
      auto W1 = factor(tensors, "lokr_w1", {4, 2}, left ? 1 : 0);
      auto W2 = factor(tensors, "lokr_w2", {out() / 4, columns() / 2}, right ? r : 0);
      auto delta = delta_of(site, tensors, {{1, 0.5}});
      EXPECT_EQ(delta->rank(), right ? r : left ? 1 : 0);
      EXPECT_TRUE(right || delta->is_dense() || left);
      expect_change(*delta, site, 0.5 * at::kron(W1, W2).view(site.weight.sizes()));
    }
}

// DoRA around a kind: W + k (W' − W), W' brought to magnitudes by outputs or inputs.
TEST_P(Sizes, DoraWrapsAnyKind) {
  auto site = site_of(GetParam().shape);
  auto in = site.weight.size(1), r = GetParam().rank;
  auto W = wide(site.weight);

  LoraFactors factors{.A = at::randn(site.weight.sizes()).narrow(0, 0, r), .B = at::randn({out(), r}), .scale = 0.1};
  auto lora_change = 0.1 * at::mm(wide(factors.B), wide(factors.A).flatten(1));
  if (W.dim() == 4) factors.B = factors.B.view({out(), r, 1, 1});
  auto hada = loha_tensors(out(), columns(), r);
  StateDict kron;
  auto W1 = factor(kron, "lokr_w1", {4, 2}, 0), W2 = factor(kron, "lokr_w2", {out() / 4, columns() / 2}, r);
  auto glora = glora_tensors(out(), in, columns(), r);

  const std::pair<std::shared_ptr<const Delta>, Tensor> kinds[] = {
      {std::make_shared<LoraDelta>(factors), lora_change},
      {delta_of(site, hada, {{1, 0.1}}), 0.1 * loha(hada)},
      {delta_of(site, kron, {{1, 0.1}}), 0.1 * at::kron(W1, W2)},
      {delta_of(site, glora, {{1, 0.1}}), 0.1 * glora_change(glora, W)}};
  for (const auto& [inner, change] : kinds)
    for (bool by_output : {true, false}) {
      SCOPED_TRACE(std::string(inner->algorithm()) + (by_output ? " by outputs" : " by inputs"));
      std::vector<int64_t> shape(W.dim(), 1), over{1, 2, 3};
      shape[by_output ? 0 : 1] = W.size(by_output ? 0 : 1);
      if (!by_output) over = {0, 2, 3};
      over.resize(W.dim() - 1);
      auto m = at::rand(shape) + 0.5;
      auto V = W + change.view(W.sizes());
      LycorisDoraDelta delta(inner, m, site.weight, "test");
      expect_change(delta, site, wide(m) * V / V.norm(2, over, /*keepdim=*/true) - W);
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
  auto delta = delta_of(site, tensors, {{0, 1}});
  expect_change(*delta, site, at::kron(wide(tensors.at("lokr_w1")), wide(tensors.at("lokr_w2"))).slice(0, 8, 16));
}

TEST(Deltas, CoresStandBetweenTheFactorsOfConvolutions) {
  at::manual_seed(17);
  auto site = site_of({16, 12, 3, 3});
  auto cp = [](const Tensor& core, const Tensor& left, const Tensor& right) {  // factors [r, out], [r, in]
    return at::einsum("abxy,ao,bi->oixy", {wide(core), wide(left), wide(right)});
  };
  auto core = at::randn({3, 3, 3, 3}), A = at::randn({3, 12, 1, 1}), B = at::randn({16, 3, 1, 1});
  auto factors = LoraFactors::fit(site, with_tucker_core(A, core, "test"), B, {}, "test");
  expect_change(LoraDelta(factors), site, cp(core, B.flatten(1).t(), A.flatten(1)));

  for (int64_t r : {1, 4}) {
    auto t = [&](std::vector<int64_t> shape) { return at::randn(shape); };
    StateDict hada{{"hada_w1_a", t({r, 16})}, {"hada_w1_b", t({r, 12})}, {"hada_t1", t({r, r, 3, 3})},
                   {"hada_w2_a", t({r, 16})}, {"hada_w2_b", t({r, 12})}, {"hada_t2", t({r, r, 3, 3})}};
    expect_change(*delta_of(site, hada, {{1, 1}}), site,
                  cp(hada.at("hada_t1"), hada.at("hada_w1_a"), hada.at("hada_w1_b")) *
                      cp(hada.at("hada_t2"), hada.at("hada_w2_a"), hada.at("hada_w2_b")));
    StateDict kron{
        {"lokr_w1", t({4, 2})}, {"lokr_w2_a", t({r, 4})}, {"lokr_w2_b", t({r, 6})}, {"lokr_t2", t({r, r, 3, 3})}};
    auto W2 = cp(kron.at("lokr_t2"), kron.at("lokr_w2_a"), kron.at("lokr_w2_b")).contiguous();
    auto delta = delta_of(site, kron, {{1, 1}});
    EXPECT_EQ(delta->is_dense(), r == 4);
    expect_change(*delta, site, at::kron(wide(kron.at("lokr_w1")).view({4, 2, 1, 1}), W2));
  }
}

TEST(Deltas, GloraGoesThroughTheWeight) {
  at::manual_seed(13);
  for (const auto& shape : {std::vector<int64_t>{40, 28}, {28, 28}, {40, 28, 1, 1}, {40, 28, 3, 3}}) {
    auto site = site_of(shape);
    auto out = shape[0], columns = site.weight.numel() / out;
    auto tensors = glora_tensors(out, 28, columns, 2);
    auto wanted = 0.5 * glora_change(tensors, wide(site.weight)).view(shape);
    auto delta = delta_of(site, tensors, {{2, 0.5}});
    EXPECT_EQ(delta->is_dense(), columns != 28);
    expect_change(*delta, site, wanted);
    if (columns != 28) continue;
    // Older files have each factor as its partner is called today.
    StateDict old{{"a1.weight", tensors.at("a2.weight")},
                  {"a2.weight", tensors.at("a1.weight")},
                  {"b1.weight", tensors.at("b2.weight")},
                  {"b2.weight", tensors.at("b1.weight")}};
    expect_change(*delta_of(site, old, {{2, 0.5}}), site, wanted);
  }
}

TEST(Deltas, Ia3MultipliesRowsOrColumns) {
  at::manual_seed(18);
  for (const auto& shape : {std::vector<int64_t>{20, 14}, {20, 14, 3, 3}}) {
    auto site = site_of(shape);
    auto W = wide(site.weight);
    for (bool on_input : {false, true}) {
      auto over = std::vector<int64_t>(shape.size(), 1);
      over[on_input ? 1 : 0] = -1;
      auto w = at::randn({on_input ? 14 : 20});
      StateDict tensors{{"weight", w}, {"on_input", at::scalar_tensor(on_input ? 1 : 0)}};
      expect_change(*delta_of(site, tensors), site, W * wide(w).view(over));
      // PEFT's is the factor itself, and of the bias too.
      auto bias = at::randn({20});
      StateDict peft{{"ia3_l", on_input ? w.view({1, -1}) : w.view({-1, 1})}};
      auto delta = delta_of(site, peft, {}, {}, bias);
      expect_change(*delta, site, W * (wide(w) - 1).view(over));
      auto added = delta->effect(0.5, site.weight).bias;
      EXPECT_EQ(added.defined(), !on_input);
      if (!on_input) {
        EXPECT_TRUE(at::allclose(added, 0.5 * bias * (w - 1)));
      }
    }
  }
}

// R of each of the blocks, in float64.
std::vector<Tensor> rotations(const Tensor& T, double limit) {
  auto Q = wide(T) - wide(T).transpose(-2, -1);
  auto norm = Q.norm().item<double>();
  if (limit > 0 && norm > limit) Q = Q * (limit / norm);
  std::vector<Tensor> all;
  auto I = at::eye(Q.size(-1), at::kDouble);
  for (const auto& q : Q.reshape({-1, Q.size(-1), Q.size(-1)}).unbind())
    all.push_back(at::mm(I + q, at::inverse(I - q)));
  return all;
}

std::vector<Tensor> mixed(std::vector<Tensor> turns, double s) {
  for (auto& R : turns) R = s * R + (1 - s) * at::eye(R.size(0), at::kDouble);
  return turns;
}

TEST(Deltas, OftTurnsRowsInBlocks) {
  at::manual_seed(14);
  for (const auto& shape : {std::vector<int64_t>{12, 10}, {12, 5, 3, 3}})
    for (double alpha : {0.0, 0.01}) {
      auto site = site_of(shape);
      auto W = wide(site.weight);
      auto T = at::randn({3, 4, 4}), rescale = at::rand({12, 1}) + 0.5;
      auto delta = delta_of(site, {{"oft_blocks", T}, {"rescale", rescale}}, {{alpha, 1}});
      for (auto s : kStrengths) {
        auto D = at::block_diag(mixed(rotations(T, alpha * 12), s));
        auto wanted = (s * wide(rescale) + 1 - s) * at::mm(D.t(), W.flatten(1));
        expect_close(change(delta->effect(s, site.weight), site.weight) + W, wanted.view(shape), kTolerance);
      }
    }
  auto site = site_of({12, 10});
  error_of(ErrorKind::bad_shape, [&] { delta_of(site, {{"oft_blocks", at::randn({5, 4, 4})}}); });
}

// A stage as a matrix: which rows meet in a block is told number by number.
Tensor butterfly(const std::vector<Tensor>& turns, int64_t out, int64_t i) {
  auto b = turns.front().size(0), k = (int64_t(1) << i) * (b / 2);
  auto to_blocks = at::zeros({out, out}, at::kDouble);
  for (int64_t c = 0; c < out / (2 * k); ++c)
    for (int64_t half = 0; half < 2; ++half)
      for (int64_t j = 0; j < k; ++j) to_blocks[c * 2 * k + j * 2 + half][c * 2 * k + half * k + j] = 1;
  return at::mm(to_blocks.t(), at::mm(at::block_diag(turns), to_blocks));
}

TEST(Deltas, BoftTurnsRowsInStages) {
  at::manual_seed(19);
  auto site = site_of({16, 10});
  auto W = wide(site.weight);
  auto T = at::randn({3, 4, 4, 4});
  auto delta = delta_of(site, {{"oft_blocks", T}}, {{0.05, 1}});
  EXPECT_STREQ(delta->algorithm(), "boft");
  auto turns = rotations(T, 0.05 * 16);
  for (auto s : kStrengths) {
    auto wanted = W;
    for (int64_t i = 0; i < 3; ++i)
      wanted = at::mm(butterfly(mixed({turns.begin() + 4 * i, turns.begin() + 4 * i + 4}, s), 16, i), wanted);
    expect_close(change(delta->effect(s, site.weight), site.weight) + W, wanted, kTolerance);
  }
}

TEST(Deltas, OftV2TurnsInputs) {
  at::manual_seed(20);
  for (bool convolution : {false, true})
    for (bool shared : {false, true})
      for (bool scaled : {false, true}) {
        auto site = site_of(convolution ? std::vector<int64_t>{10, 4, 3, 3} : std::vector<int64_t>{10, 12});
        auto W = wide(site.weight).flatten(1);
        auto blocks = W.size(1) / 4;
        auto vectors = 0.2 * at::randn({shared ? 1 : blocks, 6});
        StateDict tensors{{"oft_R.weight", vectors}};
        if (scaled) tensors.set("oft_R.scaled_oft", at::scalar_tensor(true));
        std::vector<Tensor> neumann, exact;
        for (int64_t i = 0; i < blocks; ++i) {
          auto Q = at::zeros({4, 4}, at::kDouble), I = at::eye(4, at::kDouble);
          for (int64_t row = 0, at = 0; row < 4; ++row)
            for (int64_t column = row + 1; column < 4; ++column, ++at) {
              Q[row][column] = wide(vectors)[shared ? 0 : i][at] / (scaled ? 2 * std::sqrt(3.0) : 1.0);
              Q[column][row] = -Q[row][column];
            }
          neumann.push_back(I + 2 * Q + 2 * Q.mm(Q) + 2 * Q.mm(Q).mm(Q) + Q.mm(Q).mm(Q).mm(Q));
          exact.push_back(at::mm(at::inverse(I + Q), I - Q));
        }
        auto turned = [&](const std::vector<Tensor>& R) {
          return (at::mm(W, at::block_diag(R).t()) - W).view_as(site.weight);
        };
        auto inverse = [&](const std::vector<Tensor>& R) {
          return (at::mm(W, at::block_diag(R)) - W).view_as(site.weight);
        };
        expect_change(*delta_of(site, tensors), site, turned(neumann));
        expect_change(*delta_of(site, tensors, {}, {{"use_cayley_neumann", 0}}), site, turned(exact));
        expect_change(*delta_of(site, tensors, {}, {{"inverse_convolutions", 1}}), site,
                      convolution ? inverse(neumann) : turned(neumann));
      }
}

// What PEFT's next step would have brought back is brought back here, and saved so.
TEST(Deltas, CoftStaysNearTheIdentity) {
  at::manual_seed(21);
  auto site = site_of({10, 12});
  auto vectors = at::randn({3, 6});
  vectors[1] *= 1e-4;
  auto delta = delta_of(site, {{"oft_R.weight", vectors}}, {}, {{"eps", 0.1}});
  auto kept = delta->tensors().at("oft_R.weight");
  auto norms = kept.norm(2, 1) * std::sqrt(2.0);
  for (int64_t i : {0, 2}) EXPECT_NEAR(norms[i].item<double>(), 0.1 / std::sqrt(3.0), 1e-6);
  EXPECT_TRUE(at::allclose(kept[1], vectors[1]));
  auto again = delta_of(site, {{"oft_R.weight", kept}});
  expect_change(*again, site, change(delta->effect(1, site.weight), site.weight));
}

TEST(Deltas, ABiasGoesBesideAnyKind) {
  at::manual_seed(15);
  auto site = site_of({48, 40});
  auto bias = at::randn({48});
  auto tensors = loha_tensors(48, 40, 2);
  tensors.set("diff_b", bias);
  auto delta = delta_of(site, tensors);
  EXPECT_TRUE(at::allclose(delta->effect(0.5, site.weight).bias, bias * 0.5));
  EXPECT_TRUE(delta->tensors().contains("diff_b"));
  tensors.set("diff_b", at::randn({3}));
  error_of(ErrorKind::bad_shape, [&] { delta_of(site, tensors); });
}

// In halves a kind is as exact as its own numbers: sums are made in float32.
TEST(Deltas, HalvesAreRoundedOnce) {
  at::manual_seed(16);
  auto site = site_of({48, 40}, at::kBFloat16);
  auto tensors = loha_tensors(48, 40, 6);
  StateDict rounded;
  for (const auto& [name, t] : tensors) rounded.set(name, t.to(at::kBFloat16));
  auto delta = delta_of(site, tensors, {{1, 0.25}});
  expect_change(*delta, site, 0.25 * loha(rounded));
  expect_change(*delta->to(at::kCPU, at::kBFloat16), site, 0.25 * loha(rounded));
}

TEST(Deltas, WhatDoesNotFitIsSaid) {
  auto site = site_of({48, 40});
  EXPECT_NE(
      error_of(ErrorKind::bad_shape, [&] { delta_of(site, loha_tensors(48, 41, 2), {}, {}, {}, "a.b"); }).find("41"),
      std::string::npos);
  StateDict small{{"lokr_w1", at::randn({2, 2})}, {"lokr_w2", at::randn({24, 21})}};
  EXPECT_NE(error_of(ErrorKind::bad_shape, [&] { delta_of(site, small, {}, {}, {}, "a.b"); }).find("a.b"),
            std::string::npos);
}

}  // namespace lora
