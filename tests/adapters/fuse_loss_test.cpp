// What the rounding of a weight loses of a change: how it is measured, and the layers that stay out of the weights.
#include <fmt/format.h>

#include <cmath>

#include "adapters/registry.h"
#include "lora/fuse_report.h"
#include "nn/layers.h"
#include "support/compare.h"
#include "support/layers.h"

namespace lora {

namespace {

constexpr int64_t kOut = 320, kIn = 640;

// Two linear layers, "a" and "b", with weights of the same numbers in any dtype.
struct Model {
  std::shared_ptr<Parts> parts = std::make_shared<Parts>();
  std::vector<Linear> layers;

  explicit Model(Dtype dtype, Dtype numbers) {
    at::manual_seed(3);
    StateDict weights;
    for (auto name : {"a.weight", "b.weight"}) weights.set(name, (at::randn({kOut, kIn}) * 0.03).to(numbers).to(dtype));
    auto source = std::make_shared<TensorSource>();
    source->dtype = dtype;
    source->get = [weights](const std::string& name, at::IntArrayRef) { return weights.at(name); };
    Scope root(parts, source);
    for (auto name : {"a", "b"}) layers.push_back(Linear{root / name, kIn, kOut, kNoBias});
  }
  explicit Model(Dtype dtype) : Model(dtype, dtype) {}

  const Tensor& weight(size_t i) const { return parts->sites[i]->weight; }
  std::vector<Tensor> weights() const { return {weight(0).clone(), weight(1).clone()}; }
  std::vector<Tensor> outputs() const {
    at::manual_seed(5);
    auto x = at::randn({4, kIn}).to(weight(0).scalar_type());
    RunScope scope(*parts);
    return {layers[0](x), layers[1](x)};
  }
};

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_bits);
}

// Factors whose product has this root of the mean square, as files have them: the same numbers in every dtype.
StateDict factors(const std::string& path, double rms, int64_t seed = 1) {
  at::manual_seed(seed);
  auto A = at::randn({8, kIn}), B = at::randn({kOut, 8});
  B *= rms / at::mm(B, A).square().mean().sqrt().item<double>();
  return {{path + ".lora_A.weight", A.to(at::kBFloat16)}, {path + ".lora_B.weight", B.to(at::kBFloat16)}};
}

std::shared_ptr<const Adapter> adapter(const Model& model, const StateDict& tensors) {
  return std::make_shared<Adapter>(prepare_tensors(*model.parts, tensors, PrepareOptions{.component = "unet"}).adapter);
}

// Layer "a" changes by 1 %, layer "b" by 0.1 %.
std::shared_ptr<const Adapter> large_and_small(const Model& model, int64_t seed = 1) {
  auto tensors = factors("a", 3e-4, seed);
  for (const auto& [name, tensor] : factors("b", 3e-5, seed + 1)) tensors.set(name, tensor);
  return adapter(model, tensors);
}

double root(double part, double of) { return std::sqrt(part / of); }
double length(const Tensor& t) { return t.to(at::kDouble).norm().item<double>(); }

AdapterRegistry::Edit fuse(std::optional<double> max_loss = {}) {
  return [max_loss](AdapterState& state) { state.fuse({"x"}, 0, 1, max_loss); };
}

}  // namespace

// The figures that people see: at these sizes of the change beside the weight, bfloat16 loses an eighth of it or nearly
// all. float32 and float64 lose a change that is far smaller.
TEST(FuseLoss, IsWhatTheRoundingLosesOfTheChange) {
  struct Case {
    Dtype dtype;
    double relative, lost;
  };
  for (const auto& c : {Case{at::kBFloat16, 0.013, 0.128},
                        {at::kBFloat16, 0.004, 0.386},
                        {at::kBFloat16, 0.0013, 0.733},
                        {at::kBFloat16, 0.0004, 0.916},
                        {at::kHalf, 0.013, 0.016},
                        {at::kHalf, 0.004, 0.052},
                        {at::kHalf, 0.0013, 0.160},
                        {at::kHalf, 0.0004, 0.460},
                        {at::kFloat, 0.0013, 1.94e-5},
                        {at::kFloat, 1e-8, 0.855},
                        {at::kFloat, 1e-9, 0.986},
                        {at::kDouble, 1e-18, 0.992}}) {
    SCOPED_TRACE(fmt::format("{} {}", to_string(c.dtype), c.relative));
    Model model(c.dtype);
    AdapterRegistry registry({{"unet", model.parts}});
    const auto base = model.weight(0).to(at::kDouble);
    auto loaded = adapter(model, factors("a", 0.03 * c.relative));
    registry.change([&](AdapterState& state) { state.add("x", {loaded}); });
    const auto before = registry.measure(fuse());
    const auto changes = registry.change(fuse());
    ASSERT_EQ(changes.size(), 1u);
    ASSERT_EQ(before.size(), 1u);
    const auto& sums = changes.front().sums;
    EXPECT_EQ(changes.front().site, model.parts->sites[0].get());
    EXPECT_EQ(before.front().sums.lost, sums.lost);
    EXPECT_EQ(before.front().sums.change, sums.change);
    EXPECT_NEAR(root(sums.change, sums.base), c.relative, 0.02 * c.relative);
    EXPECT_NEAR(root(sums.lost, sums.change), c.lost, 0.03 * c.lost);
    EXPECT_EQ(sums.not_finite, 0);
    // The definition, in float64.
    auto effect = loaded->entries[0].delta->effect(1, {});
    auto delta = at::mm(effect.B.to(at::kDouble), effect.A.to(at::kDouble)) * effect.scale;
    auto lost = length(model.weight(0).to(at::kDouble) - base - delta) / length(delta);
    EXPECT_NEAR(root(sums.lost, sums.change), lost, 0.03 * lost) << "an eighth of the numbers is measured";
  }
}

// Their squares are 0 in float32.
TEST(FuseLoss, AllIsLostOfAChangeOfNearlyNothing) {
  for (auto dtype : {at::kFloat, at::kBFloat16, at::kDouble})
    for (const bool dense : {false, true}) {
      SCOPED_TRACE(fmt::format("{} {}", to_string(dtype), dense));
      Model model(dtype);
      AdapterRegistry registry({{"unet", model.parts}});
      const auto base = model.weights();
      auto tensors = factors("a", 0.03 * 1e-25);
      if (dense)
        tensors = {{"a.diff", at::mm(tensors.at("a.lora_B.weight").to(at::kFloat),
                                     tensors.at("a.lora_A.weight").to(at::kFloat))}};
      registry.change([&](AdapterState& state) { state.add("x", {adapter(model, tensors)}); });
      const auto sums = registry.change(fuse()).at(0).sums;
      EXPECT_NEAR(sums.relative(), 1e-25, 0.03 * 1e-25);
      EXPECT_EQ(sums.loss(), 1);
      EXPECT_FALSE(sums.changed);
      EXPECT_TRUE(same(model.weights(), base));
      registry.change([](AdapterState& state) { state.unfuse({}, 0); });
      EXPECT_TRUE(registry.change(fuse(0.1)).at(0).stays_active);
    }
}

TEST(FuseLoss, SaysWhetherAnyNumberChanges) {
  auto one = at::zeros({kOut, kIn});
  one[0][40] = 1;  // in a tile that is not measured
  const std::tuple<const char*, StateDict, bool> cases[] = {
      {"a LoRA", factors("a", 1e-3), true},
      {"zero factors", {{"a.lora_A.weight", at::ones({1, kIn})}, {"a.lora_B.weight", at::zeros({kOut, 1})}}, false},
      {"zeros", {{"a.diff", at::zeros({kOut, kIn})}}, false},
      {"one number", {{"a.diff", one}}, true}};
  for (const auto& [name, tensors, changed] : cases)
    for (auto dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
      SCOPED_TRACE(fmt::format("{} {}", name, to_string(dtype)));
      Model model(dtype);
      model.weight(0).slice(0, 0, 9).fill_(-0.0);
      AdapterRegistry registry({{"unet", model.parts}});
      registry.change([&](AdapterState& state) { state.add("x", {adapter(model, tensors)}); });
      EXPECT_EQ(registry.measure(fuse()).at(0).sums.changed, changed);
      const auto sums = registry.change(fuse()).at(0).sums;
      EXPECT_EQ(sums.changed, changed);
      if (!changed) {
        EXPECT_EQ(sums.change, 0);
        EXPECT_EQ(sums.loss(), 0);
      }
    }
}

TEST(FuseLoss, IsToldWithoutNaN) {
  auto told = [](std::vector<FuseReport::Layer> layers, double change, double lost) {
    return FuseReport{.layers = std::move(layers), .change = change, .lost = lost}.text();
  };
  const FuseReport::Layer fine{.component = "unet", .path = "a", .dtype = at::kHalf, .change = 0.01, .lost = 0.03};
  const FuseReport::Layer broken{.component = "unet", .path = "b", .dtype = at::kHalf, .lost = 1, .not_finite = 7};
  EXPECT_EQ(told({fine}, 0.01, 0.03),
            "1 layer of float16: the rounding loses 3 % of the change (rms change / weight 0.01)\n"
            "  most in: unet.a (3 %)\n");
  EXPECT_EQ(told({fine, broken}, 0.01, 0.03),
            "2 layers of float16: the rounding loses 3 % of the change in the 1 layer without NaN or infinity "
            "(rms change / weight 0.01)\n"
            "  most in: unet.a (3 %)\n"
            "  NaN or infinite: 1 layer: unet.b (7 of its numbers)\n");
  EXPECT_EQ(told({broken}, 0, 0),
            "1 layer of float16: the result has NaN or infinity\n"
            "  NaN or infinite: 1 layer: unet.b (7 of its numbers)\n");
  auto tiny = fine, zero = fine, exact = fine;
  tiny.change = 1e-9, tiny.lost = 1;
  zero.change = zero.lost = 0;
  exact.lost = 2e-5;
  EXPECT_EQ(told({tiny}, 1e-9, 1),
            "1 layer of float16: the rounding loses 100 % of the change (rms change / weight 1e-09)\n"
            "  most in: unet.a (100 %)\n");
  EXPECT_EQ(told({zero}, 0, 0), "1 layer of float16: the change of the weights is 0\n");
  EXPECT_EQ(told({exact}, 0.01, 2e-5),
            "1 layer of float16: the rounding loses 0 % of the change (rms change / weight 0.01)\n");
}

TEST(FuseLoss, IsMeasuredForEveryKind) {
  at::manual_seed(9);
  auto noise = [](std::vector<int64_t> shape, double size) { return (at::randn(shape) * size).to(at::kBFloat16); };
  auto dora = factors("a", 2e-4);
  dora.set("a.lora_magnitude_vector", at::full({kOut}, 0.03 * std::sqrt(double(kIn)) * 1.003));
  const std::map<std::string, StateDict> kinds = {
      {"dora", dora},
      {"loha",
       {{"a.hada_w1_a", noise({kOut, 4}, 0.1)},
        {"a.hada_w1_b", noise({4, kIn}, 0.1)},
        {"a.hada_w2_a", noise({kOut, 4}, 0.1)},
        {"a.hada_w2_b", noise({4, kIn}, 0.1)}}},
      {"full", {{"a.diff", noise({kOut, kIn}, 1e-4)}}},
      {"oft", {{"a.oft_blocks", noise({4, kOut / 4, kOut / 4}, 1e-4)}}},
  };
  for (const auto& [kind, tensors] : kinds)
    for (auto dtype : {at::kBFloat16, at::kHalf}) {
      SCOPED_TRACE(kind + " " + to_string(dtype));
      Model model(dtype), exact(at::kDouble, dtype);
      AdapterRegistry registry({{"unet", model.parts}}), exact_registry({{"unet", exact.parts}});
      const auto base = exact.weight(0).clone();
      registry.change([&](AdapterState& state) { state.add("x", {adapter(model, tensors)}); });
      exact_registry.change([&](AdapterState& state) { state.add("x", {adapter(exact, tensors)}); });
      const auto changes = registry.change(fuse());
      exact_registry.change(fuse());
      ASSERT_EQ(changes.size(), 1u);
      auto wanted = length(model.weight(0).to(at::kDouble) - exact.weight(0)) / length(exact.weight(0) - base);
      auto lost = root(changes[0].sums.lost, changes[0].sums.change);
      EXPECT_NEAR(lost, wanted, 0.02 * wanted);
      EXPECT_GT(lost, 0.001);
      EXPECT_NEAR(root(changes[0].sums.change, changes[0].sums.base), length(exact.weight(0) - base) / length(base),
                  0.02 * length(exact.weight(0) - base) / length(base));
    }
}

TEST(FuseLoss, NumbersThatOverflowAreCounted) {
  for (const bool dense : {false, true}) {
    Model model(at::kHalf);
    for (const auto& site : model.parts->sites) site->weight.fill_(60000);
    AdapterRegistry registry({{"unet", model.parts}});
    const auto base = model.weights();
    auto B = at::zeros({kOut, 1}), A = at::ones({1, kIn}) * 100;
    B.slice(0, 0, 3).fill_(100);  // three rows: 70000
    StateDict tensors{{"a.lora_A.weight", A}, {"a.lora_B.weight", B}};
    if (dense) tensors = {{"a.diff", at::mm(B, A)}};
    registry.change([&](AdapterState& state) { state.add("x", {adapter(model, tensors)}); });
    EXPECT_EQ(registry.measure(fuse()).at(0).sums.not_finite, 3 * kIn);
    auto refused = error_of(ErrorKind::unsupported, [&] { registry.change(fuse(), AdapterRegistry::Results::finite); });
    EXPECT_NE(refused.find("1 layer: unet.a;"), std::string::npos) << refused;
    EXPECT_TRUE(same(model.weights(), base));
    EXPECT_EQ(registry.change(fuse()).at(0).sums.not_finite, 3 * kIn);
    // A layer that overflows loses all.
    registry.change([](AdapterState& state) { state.unfuse({}, 0); });
    auto changes = registry.change(fuse(0.99));
    EXPECT_TRUE(changes.at(0).stays_active);
    EXPECT_TRUE(same(model.weights(), base));
  }
}

// ---- max_loss -------------------------------------------------------------------------------------------------------

class MaxLoss : public testing::Test {
 protected:
  MaxLoss() : registry_({{"unet", model_.parts}}) {
    registry_.change([&](AdapterState& state) { state.add("x", {large_and_small(model_)}); });
    active_ = model_.outputs();
  }
  void edit(const AdapterRegistry::Edit& edit) { registry_.change(edit); }
  void set_y_active() {
    edit([&](AdapterState& state) {
      state.add("y", {large_and_small(model_, 7)});
      state.set({"y"}, {1.0}, {{{}}});
    });
  }
  std::vector<std::string> fused() const {
    std::vector<std::string> names;
    for (const auto& f : registry_.current()->state.components[0].fused) names.push_back(f.name);
    return names;
  }
  // "a" is in the weights, and "b" acts as it does when it is active.
  void expect_divided() const {
    EXPECT_FALSE(same_bits(model_.weight(0), base_[0]));
    EXPECT_TRUE(same_bits(model_.weight(1), base_[1]));
    EXPECT_TRUE(same_bits(model_.outputs()[1], active_[1]));
    expect_close(model_.outputs()[0], active_[0], 0.02);
    EXPECT_EQ(fused(), std::vector<std::string>{"x"});
  }
  void expect_base() const {
    EXPECT_TRUE(same(model_.weights(), base_));
    EXPECT_TRUE(same(model_.outputs(), plain_));
  }

  Model model_{at::kBFloat16};
  std::vector<Tensor> base_ = model_.weights(), plain_ = model_.outputs(), active_;
  AdapterRegistry registry_;
};

TEST_F(MaxLoss, LossyLayersStayFactors) {
  auto changes = registry_.change(fuse(0.3));
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_FALSE(changes[0].stays_active);
  EXPECT_TRUE(changes[1].stays_active);
  EXPECT_LT(root(changes[0].sums.lost, changes[0].sums.change), 0.3);
  EXPECT_GT(root(changes[1].sums.lost, changes[1].sums.change), 0.3);
  expect_divided();
  edit([](AdapterState& state) { state.unfuse({}, 0); });
  EXPECT_TRUE(same(model_.weights(), base_));
  EXPECT_TRUE(same(model_.outputs(), active_)) << "x is active still";
}

TEST_F(MaxLoss, ZeroLeavesEveryLayerAndOneLeavesNone) {
  edit(fuse(0));
  EXPECT_TRUE(same(model_.weights(), base_));
  EXPECT_TRUE(same(model_.outputs(), active_));
  EXPECT_EQ(fused(), std::vector<std::string>{"x"});
  edit(fuse(1));
  EXPECT_FALSE(same_bits(model_.weight(1), base_[1]));
  EXPECT_TRUE(registry_.current()->state.acting(0).empty());
  edit(fuse(0.3));  // the same strengths again, but divided
  expect_divided();
}

TEST_F(MaxLoss, WhatIsFusedActsUntilItIsUnfused) {
  edit(fuse(0.3));
  edit([](AdapterState& state) { state.set({}, {}, {}); });
  expect_divided();
  edit([](AdapterState& state) { state.enabled = false; });
  expect_base();
  edit([](AdapterState& state) { state.enabled = true; });
  expect_divided();
  edit([](AdapterState& state) { state.unload(); });
  expect_divided();
  edit([](AdapterState& state) { state.unfuse({"x"}, 0); });
  expect_base();
}

TEST_F(MaxLoss, DeletedAdaptersLeaveWeightsAndFactors) {
  edit(fuse(0.3));
  edit([](AdapterState& state) { state.remove({"x"}); });
  expect_base();
}

TEST_F(MaxLoss, OtherAdaptersActBesideIt) {
  set_y_active();
  edit([](AdapterState& state) { state.set({"x", "y"}, {1.0, 1.0}, {{{}}, {{}}}); });
  auto both = model_.outputs();
  edit(fuse(0.3));
  EXPECT_TRUE(same_bits(model_.outputs()[1], both[1]));
  expect_close(model_.outputs()[0], both[0], 0.02);
  edit([](AdapterState& state) { state.set({"y"}, {1.0}, {{{}}}); });
  EXPECT_TRUE(same_bits(model_.outputs()[1], both[1])) << "a fused adapter does not depend on set_adapters";
}

TEST_F(MaxLoss, AHotswapIsDividedAnew) {
  edit(fuse(0.3));
  auto large = factors("a", 3e-4);
  for (const auto& [name, tensor] : factors("b", 3e-4, 2)) large.set(name, tensor);
  edit([&](AdapterState& state) { state.replace("x", {adapter(model_, large)}, {{}}); });
  EXPECT_FALSE(same_bits(model_.weight(1), base_[1]));
  EXPECT_TRUE(registry_.current()->state.acting(0).empty());
  edit([&](AdapterState& state) { state.replace("x", {large_and_small(model_)}, {{}}); });
  expect_divided();
}

TEST_F(MaxLoss, WhatIsFusedWhileDisabledIsDividedWhenEnabled) {
  edit([](AdapterState& state) { state.enabled = false; });
  edit(fuse(0.3));
  expect_base();
  edit([](AdapterState& state) { state.enabled = true; });
  expect_divided();
}

TEST_F(MaxLoss, MeasuringChangesNothing) {
  auto number = registry_.current()->number;
  auto measured = registry_.measure(fuse(0.3));
  ASSERT_EQ(measured.size(), 2u);
  EXPECT_TRUE(measured[1].stays_active);
  EXPECT_EQ(registry_.current()->number, number);
  EXPECT_TRUE(same(model_.weights(), base_));
  auto written = registry_.change(fuse(0.3));
  ASSERT_EQ(written.size(), 2u);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(written[i].sums.lost, measured[i].sums.lost);
  // What is fused already is measured as well.
  EXPECT_EQ(registry_.measure([](AdapterState&) {}).size(), 1u);
}

}  // namespace lora
