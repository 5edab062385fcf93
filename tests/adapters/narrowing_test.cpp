// Factors of a wide range in a model of float16.
#include "adapters/narrowing.h"

#include <fmt/format.h>

#include "adapters/adapter.h"
#include "nn/layers.h"
#include "support/compare.h"
#include "support/layers.h"

namespace lora {

namespace {

struct Model {
  std::shared_ptr<Parts> parts = std::make_shared<Parts>();
  std::vector<Linear> layers;

  explicit Model(Dtype dtype) {
    auto source = std::make_shared<TensorSource>();
    source->dtype = dtype;
    source->get = [dtype](const std::string&, at::IntArrayRef sizes) { return at::zeros(sizes, dtype); };
    layers.push_back(Linear{Scope(parts, source) / "a", 24, 16, kNoBias});
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
    for (auto [down, up] : {std::pair{1.0, 1e-9}, {1e-9, 1.0}, {1e5, 1e-4}, {1e-7, 1e6}, {3e-3, 2e-6}, {0.1, 1e-3}}) {
      SCOPED_TRACE(fmt::format("{} {} {}", to_string(dtype), down, up));
      auto tensors = layer(down, up, dtype);
      auto loaded = prepared(half, tensors);
      auto effect = loaded.adapter.entries.at(0).delta->effect(1, {});
      EXPECT_EQ(effect.A.scalar_type(), at::kHalf);
      EXPECT_EQ(effect.scale, 1);
      auto wanted = product(tensors.at("a.lora_B.weight"), tensors.at("a.lora_A.weight"));
      expect_close(product(effect.B, effect.A), wanted, 2e-3);
      EXPECT_LE(effect.A.abs().max().item<float>(), 2);
      EXPECT_TRUE(loaded.notes.empty());
    }
}

TEST(Narrowing, FactorsThatFitAreAsInTheFile) {
  auto tensors = layer(0.1, 1e-3);
  for (auto dtype : {at::kHalf, at::kBFloat16, at::kFloat}) {
    Model model(dtype);
    auto effect = prepared(model, tensors).adapter.entries.at(0).delta->effect(1, {});
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
  auto large = refused(layer(1e5, 1e5));
  EXPECT_NE(large.find("unet.a: "), std::string::npos) << large;
  EXPECT_NE(large.find("numbers of lora_B.weight are too large for float16; open the model in float32 or bfloat16"),
            std::string::npos)
      << large;
  auto small = refused(layer(1e-9, 1e-9));
  EXPECT_NE(small.find("so small that float16 makes them 0"), std::string::npos) << small;
  auto diff = refused({{"a.diff", at::full({16, 24}, 1e6)}});
  EXPECT_NE(diff.find("unet.a: 384 numbers of diff are too large"), std::string::npos) << diff;
  Model wide(at::kFloat);
  EXPECT_EQ(prepared(wide, layer(1e5, 1e5)).adapter.entries.size(), 1u);
}

TEST(Narrowing, NumbersThatBecomeZeroAreTold) {
  Model half(at::kHalf);
  auto diff = at::full({16, 24}, 0.5);
  diff[0].fill_(1e-9);
  auto notes = prepared(half, {{"a.diff", diff}}).notes;
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_EQ(notes[0],
            "unet: 24 of 384 numbers in 1 layer are so small that float16 makes them 0: a; open the model in float32 "
            "or bfloat16 to keep them");
}

TEST(Narrowing, CountsWhatIsLost) {
  auto numbers = at::tensor({0.0, 1.0, 3e-8, 2.9e-8, -1e-9, 65519.0, 65520.0, -1e9}, at::kDouble);
  for (auto dtype : {at::kFloat, at::kDouble}) {
    auto lost = narrowing(numbers.to(dtype), at::kHalf);
    auto half = numbers.to(dtype).to(at::kHalf);
    EXPECT_EQ(lost.nonzero, 7);
    EXPECT_EQ(lost.flushed, (half == 0).sum().item<int64_t>() - 1);
    EXPECT_EQ(lost.overflowed, at::isinf(half).sum().item<int64_t>());
    EXPECT_EQ(lost.largest, 1e9f);
    EXPECT_EQ(narrowing(numbers.to(dtype), at::kBFloat16).nonzero, 0) << "nothing to lose";
  }
}

}  // namespace lora
