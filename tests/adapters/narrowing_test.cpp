// Factors of a wide range in a model of float16.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "adapters/adapter.h"
#include "nn/layers.h"
#include "support/compare.h"
#include "support/layers.h"

namespace lora {

namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct Model {
  std::shared_ptr<Parts> parts = std::make_shared<Parts>();
  std::vector<Linear> layers;
  std::vector<Conv2d> convolutions;

  explicit Model(Dtype dtype) {
    auto source = std::make_shared<TensorSource>();
    source->dtype = dtype;
    source->get = [dtype](const std::string&, at::IntArrayRef sizes) { return at::zeros(sizes, dtype); };
    layers.push_back(Linear{Scope(parts, source) / "a", 24, 16, kNoBias});
    convolutions.push_back(Conv2d{.s = Scope(parts, source) / "c", .in = 8, .out = 16, .bias = kNoBias});
  }
};

StateDict layer(double down, double up, Dtype dtype = at::kFloat) {
  at::manual_seed(1);
  return {{"a.lora_A.weight", ((at::rand({4, 24}) + 0.1) * down).to(dtype)},
          {"a.lora_B.weight", ((at::rand({16, 4}) + 0.1) * up).to(dtype)}};
}

Prepared prepared(const Model& model, const StateDict& tensors) {
  return prepare_tensors(*model.parts, tensors, PrepareOptions{.component = "unet"});
}

Tensor product(const Tensor& B, const Tensor& A) { return at::mm(B.to(at::kDouble), A.to(at::kDouble)); }

}  // namespace

TEST(Narrowing, FactorsAreShiftedSoThatTheirProductStays) {
  Model half(at::kHalf);
  for (auto dtype : {at::kFloat, at::kBFloat16, at::kDouble})
    for (auto [down, up] : {std::pair{1.0, 1e-9}, {1e-9, 1.0}, {1e5, 1e-4}, {1e-7, 1e6}, {3e-3, 2e-6}}) {
      SCOPED_TRACE(fmt::format("{} {} {}", to_string(dtype), down, up));
      auto tensors = layer(down, up, dtype);
      auto loaded = prepared(half, tensors);
      auto effect = loaded.adapter.entries.at(0).delta->effect(1, {});
      EXPECT_EQ(effect.A.scalar_type(), at::kHalf);
      EXPECT_EQ(effect.scale, 1);
      auto wanted = product(tensors.at("a.lora_B.weight"), tensors.at("a.lora_A.weight"));
      expect_close(product(effect.B, effect.A), wanted, 2e-3);
      EXPECT_LE(effect.A.abs().max().item<float>(), 1);
      EXPECT_THAT(loaded.notes,
                  ElementsAre("unet: float16 cannot hold all numbers of the factors of 1 layer as they are. The "
                              "factors were multiplied by powers of two, and their products are the same: a"));
    }
}

TEST(Narrowing, FactorsThatFitAreAsInTheFile) {
  auto tensors = layer(0.1, 1e-3);
  for (auto dtype : {at::kHalf, at::kBFloat16, at::kFloat}) {
    Model model(dtype);
    auto loaded = prepared(model, tensors);
    auto effect = loaded.adapter.entries.at(0).delta->effect(1, {});
    EXPECT_THAT(loaded.notes, IsEmpty());
    EXPECT_TRUE(same_bits(effect.A, tensors.at("a.lora_A.weight").to(dtype)));
    EXPECT_TRUE(same_bits(effect.B, tensors.at("a.lora_B.weight").to(dtype)));
  }
  // bfloat16 has the range of float32.
  Model wide(at::kBFloat16);
  auto small = layer(1, 1e-9);
  auto effect = prepared(wide, small).adapter.entries.at(0).delta->effect(1, {});
  EXPECT_TRUE(same_bits(effect.B, small.at("a.lora_B.weight").to(at::kBFloat16)));
  // A factor that starts at zero is no loss.
  Model half(at::kHalf);
  EXPECT_TRUE(prepared(half, layer(0.1, 0)).notes.empty());
}

TEST(Narrowing, ALayerThatFloat16CannotHoldIsRefused) {
  Model half(at::kHalf);
  auto refused = [&](const StateDict& tensors) {
    return error_of(ErrorKind::unsupported, [&] { prepared(half, tensors); });
  };
  EXPECT_THAT(refused(layer(1e5, 1e5)),
              AllOf(HasSubstr("unet: float16 cannot hold "),
                    HasSubstr(" numbers of 1 layer, which are too large for it: a (lora_A.weight); open the model in "
                              "bfloat16 or float32")));
  EXPECT_EQ(refused(layer(1e-9, 1e-9)),
            "unet: float16 cannot hold 1 layer: all numbers of a tensor are too small for it and would become 0: a "
            "(lora_A.weight); open the model in bfloat16 or float32");
  EXPECT_EQ(refused({{"a.diff", at::full({16, 24}, 1e6)}}),
            "unet: float16 cannot hold 384 numbers of 1 layer, which are too large for it: a (diff); open the model in "
            "bfloat16 or float32");
  Model wide(at::kFloat);
  EXPECT_EQ(prepared(wide, layer(1e5, 1e5)).adapter.entries.size(), 1u);
}

TEST(Narrowing, NumbersThatBecomeZeroAreTold) {
  Model half(at::kHalf);
  auto diff = at::full({16, 24}, 0.5);
  diff[0].fill_(1e-9);
  EXPECT_THAT(prepared(half, {{"a.diff", diff}}).notes,
              ElementsAre("unet: 24 of 384 numbers in 1 layer are so small that float16 makes them 0; a tensor loses "
                          "at most 5.2e-08 % of its size: a; open the model in bfloat16 or float32"));
}

TEST(Narrowing, FactorsOfOtherKindsAreShifted) {
  at::manual_seed(1);
  Model half(at::kHalf);
  StateDict loha, lokr;
  for (auto suffix : {"a.hada_w1_a", "a.hada_w2_a"}) loha.set(suffix, at::randn({16, 4}) * 1e-8);
  for (auto suffix : {"a.hada_w1_b", "a.hada_w2_b"}) loha.set(suffix, at::randn({4, 24}));
  lokr.set("a.lokr_w1", at::randn({4, 4}) * 1e-8);
  lokr.set("a.lokr_w2", at::randn({4, 6}) * 100);
  auto change = [&](const StateDict& tensors) {
    auto loaded = prepared(half, tensors);
    EXPECT_THAT(loaded.notes, Contains(HasSubstr("powers of two")));
    for (const auto& [suffix, tensor] : loaded.adapter.entries.at(0).delta->tensors())
      EXPECT_EQ(tensor.scalar_type(), at::kHalf) << suffix;
    return loaded.adapter.entries.at(0).delta->effect(1, {}).weight;
  };
  expect_close(
      change(loha),
      product(loha.at("a.hada_w1_a"), loha.at("a.hada_w1_b")) * product(loha.at("a.hada_w2_a"), loha.at("a.hada_w2_b")),
      3e-3);
  expect_close(change(lokr), at::kron(lokr.at("a.lokr_w1"), lokr.at("a.lokr_w2")), 3e-3);
}

// The core goes into lora_A, which can be too large although both fit.
TEST(Narrowing, ACoreIsCountedWhereItGoes) {
  at::manual_seed(1);
  auto A = at::rand({4, 8, 1, 1}) * 1e3, core = at::rand({4, 4, 3, 3}) * 1e3, B = at::rand({16, 4, 1, 1}) * 1e-3;
  auto loaded =
      prepared(Model(at::kHalf), {{"c.lora_A.weight", A}, {"c.lora_mid.weight", core}, {"c.lora_B.weight", B}});
  EXPECT_THAT(loaded.notes, ElementsAre(HasSubstr("powers of two")));
  auto effect = loaded.adapter.entries.at(0).delta->effect(1, {});
  auto folded = at::einsum("abhw,bi->aihw", {core, A.flatten(1)});
  expect_close(product(effect.B.flatten(1), effect.A.flatten(1)), product(B.flatten(1), folded.flatten(1)), 2e-3);
}

TEST(Narrowing, AMagnitudeThatStaysInFloat32IsNoLoss) {
  auto tensors = layer(0.1, 0.1);
  tensors.set("a.lora_magnitude_vector", at::full({16}, 1e6));
  auto loaded = prepared(Model(at::kHalf), tensors);
  EXPECT_THAT(loaded.notes, IsEmpty());
}

}  // namespace lora
