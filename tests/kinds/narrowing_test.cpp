// What a narrower dtype cannot hold of a layer, and factors rescaled so that it can.
#include "kinds/narrowing.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "kinds/kinds.h"
#include "support/compare.h"

namespace lora {

namespace {

using testing::ElementsAre;
using testing::IsEmpty;

Fitted fit(const LayerTensors& tensors, Dtype dtype) {
  return fitted(tensors, dtype, [](auto) { return true; });
}

LayerTensors factors(const Tensor& A, const Tensor& B) { return {{"lora_A.weight", A}, {"lora_B.weight", B}}; }

// Numbers between a tenth of `size` and 1.1 times it.
Tensor numbers(std::vector<int64_t> shape, double size) { return (at::rand(shape) + 0.1) * size; }

double largest(const LayerTensors& tensors, const char* suffix) {
  return get(tensors, suffix).abs().max().item<double>();
}

// The change of a layer at strength 1.
Tensor change(const LayerTensors& tensors) {
  auto change = change_of(LoraLayer{.component = "unet", .path = "a", .tensors = tensors});
  auto whole = change.A.defined() ? at::mm(change.B.to(at::kDouble), change.A.to(at::kDouble)) : change.weight;
  return whole.to(at::kDouble);
}

LayerTensors cast(LayerTensors tensors, Dtype dtype) {
  for (auto& [suffix, tensor] : tensors) tensor = tensor.to(dtype);
  return tensors;
}

double error_of_cast(const Tensor& tensor, Dtype dtype) {
  auto wide = tensor.to(at::kDouble);
  return ((tensor.to(dtype).to(at::kDouble) - wide).norm() / wide.norm()).item<double>();
}

struct Edges {
  Dtype dtype;
  double zero, precise, infinite;
};

const Edges kEdges[] = {{at::kHalf, 0x1p-25, 0x1p-14, 65520},
                        {at::kBFloat16, 0x1p-134, 0x1p-126, 0x1.FFp127},
                        {at::kFloat8_e5m2, 0x1p-17, 0x1p-14, 61440},
                        {at::kFloat8_e4m3fn, 0x1p-10, 0x1p-6, 464}};

}  // namespace

TEST(Narrowing, CountsWhatIsLost) {
  auto numbers = at::tensor({0.0, 1.0, 3e-8, 2.9e-8, -1e-9, 65519.0, 65520.0, -1e9}, at::kDouble);
  for (auto dtype : {at::kFloat, at::kDouble}) {
    auto lost = narrowing(numbers.to(dtype), at::kHalf);
    auto half = numbers.to(dtype).to(at::kHalf);
    EXPECT_EQ(lost.nonzero, 7);
    EXPECT_EQ(lost.flushed, (half == 0).sum().item<int64_t>() - 1);
    EXPECT_EQ(lost.overflowed, at::isinf(half).sum().item<int64_t>());
    EXPECT_EQ(lost.imprecise, 3);
    EXPECT_TRUE(narrowing(numbers.to(dtype), at::kBFloat16).fits()) << "nothing to lose";
    EXPECT_EQ(narrowing(numbers.to(dtype), at::kBFloat16).imprecise, 0);
  }
}

// The numbers around each edge, in more than one block of the count.
TEST(Narrowing, CountsAsTheCastOfEachDtypeDoes) {
  for (const auto& [dtype, zero, precise, infinite] : kEdges)
    for (auto from : {at::kFloat, at::kDouble}) {
      SCOPED_TRACE(fmt::format("{} from {}", to_string(dtype), to_string(from)));
      constexpr double kMore = 1 + 0x1p-10;
      auto few = at::tensor({0.0, zero, zero * kMore, precise / kMore, precise, infinite / kMore, infinite, -infinite},
                            at::kDouble);
      auto many = few.repeat({300}).to(from);
      auto lost = narrowing(many, dtype);
      auto got = many.to(dtype).to(at::kFloat).abs();
      EXPECT_EQ(lost.nonzero, 7 * 300);
      EXPECT_EQ(lost.flushed, (got == 0).sum().item<int64_t>() - 300);
      EXPECT_EQ(lost.flushed, 300);
      EXPECT_EQ(lost.imprecise, 3 * 300);
      EXPECT_EQ(lost.overflowed, 2 * 300);
      if (dtype != at::kFloat8_e4m3fn) {  // this cast gives its largest number
        EXPECT_EQ(at::isinf(got).sum().item<int64_t>(), 2 * 300);
      }
    }
}

TEST(Narrowing, CountsOfFloat64InFloat32) {
  auto numbers = at::tensor({0.0, 1.0, 1e-50, 1e-40, 1e30, -1e40}, at::kDouble);
  auto lost = narrowing(numbers, at::kFloat);
  EXPECT_EQ(lost.nonzero, 5);
  EXPECT_EQ(lost.flushed, 1);
  EXPECT_EQ(lost.imprecise, 2);
  EXPECT_EQ(lost.overflowed, 1);
}

TEST(Narrowing, CountsOnlyWhereTheRangeIsSmaller) {
  auto pairs = [](Dtype from, std::initializer_list<Dtype> to) {
    std::vector<std::string> narrower;
    for (auto dtype : to)
      if (narrows(from, dtype)) narrower.push_back(to_string(dtype));
    return narrower;
  };
  auto all = {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf, at::kFloat8_e5m2, at::kFloat8_e4m3fn};
  EXPECT_THAT(pairs(at::kDouble, all), ElementsAre("float32", "bfloat16", "float16", "float8_e5m2", "float8_e4m3fn"));
  EXPECT_THAT(pairs(at::kFloat, all), ElementsAre("bfloat16", "float16", "float8_e5m2", "float8_e4m3fn"));
  EXPECT_THAT(pairs(at::kBFloat16, all), ElementsAre("float16", "float8_e5m2", "float8_e4m3fn"));
  EXPECT_THAT(pairs(at::kHalf, all), ElementsAre("float8_e5m2", "float8_e4m3fn"));
  EXPECT_THAT(pairs(at::kLong, all), IsEmpty());
  EXPECT_EQ(narrowing(at::full({4}, 1e-7f).to(at::kHalf), at::kHalf).nonzero, 0);
  EXPECT_EQ(narrowing(at::ones({4}, at::kHalf), at::kFloat).nonzero, 0);
}

// Infinity and NaN of the tensor itself are not lost.
TEST(Narrowing, CountsNothingThatWasNotFiniteBefore) {
  auto lost = narrowing(at::tensor({INFINITY, -INFINITY, NAN, 1e6f}), at::kHalf);
  EXPECT_EQ(lost.overflowed, 1);
  EXPECT_EQ(lost.flushed, 0);
}

TEST(Narrowing, FewSmallNumbersFit) {
  EXPECT_TRUE((Narrowing{.nonzero = 1000, .flushed = 1, .imprecise = 750}.fits()));
  EXPECT_FALSE((Narrowing{.nonzero = 1000, .flushed = 2, .imprecise = 750}.fits()));
  EXPECT_FALSE((Narrowing{.nonzero = 1000, .flushed = 1, .imprecise = 751}.fits()));
  EXPECT_FALSE((Narrowing{.nonzero = 1000, .overflowed = 1}.fits()));
  EXPECT_TRUE(Narrowing{}.fits()) << "all zeros";
}

// ---- Factors --------------------------------------------------------------------------------------------------------

TEST(Fitted, FactorsKeepTheirProduct) {
  at::manual_seed(1);
  for (auto dtype : {at::kFloat, at::kBFloat16, at::kDouble})
    for (auto [down, up] : {std::pair{1.0, 1e-9}, {1e-9, 1.0}, {1e5, 1e-4}, {1e-7, 1e6}, {3e-3, 2e-6}, {1e5, 50.0}}) {
      SCOPED_TRACE(fmt::format("{} {} {}", to_string(dtype), down, up));
      auto file = factors(numbers({4, 24}, down).to(dtype), numbers({16, 4}, up).to(dtype));
      auto [tensors, loss] = fit(file, at::kHalf);
      EXPECT_TRUE(loss.rescaled);
      EXPECT_FALSE(loss.overflowing || loss.dead);
      EXPECT_EQ(loss.flushed, 0);
      // Powers of two change no digit.
      expect_close(at::mm(get(tensors, "lora_B.weight"), get(tensors, "lora_A.weight")),
                   at::mm(get(file, "lora_B.weight").to(at::kDouble), get(file, "lora_A.weight").to(at::kDouble)),
                   1e-14);
      expect_close(change(cast(tensors, at::kHalf)), change(file), 2e-3);
    }
}

// What leaves lora_A is in the dtype too.
TEST(Fitted, TheDownFactorStaysBelowOneIfTheUpFactorHasRoom) {
  at::manual_seed(1);
  auto sizes = [&](double down, double up) {
    auto [tensors, loss] = fit(factors(numbers({4, 24}, down), numbers({16, 4}, up)), at::kHalf);
    EXPECT_TRUE(loss.rescaled && !loss.overflowing) << down << " " << up;
    return std::pair(largest(tensors, "lora_A.weight"), largest(tensors, "lora_B.weight"));
  };
  for (auto [down, up] : {std::pair{1e5, 1e-4}, {1e5, 0.1}, {1e-3, 1e6}}) EXPECT_LT(sizes(down, up).first, 1);
  auto [A, B] = sizes(1e6, 100);  // a product of 1e8: more than the largest number of float16
  EXPECT_GT(A, 1);
  EXPECT_LT(A, B);
  EXPECT_LT(B, 32768);
}

TEST(Fitted, AllFactorsOfAKindAreRescaled) {
  at::manual_seed(1);
  LayerTensors loha, lokr;
  for (auto suffix : {"hada_w1_a", "hada_w2_a"}) loha[suffix] = at::randn({16, 4}) * 1e-6;
  for (auto suffix : {"hada_w1_b", "hada_w2_b"}) loha[suffix] = at::randn({4, 96});
  lokr["lokr_w1"] = at::randn({4, 4}) * 1e-8;
  lokr["lokr_w2"] = at::randn({4, 24}) * 100;
  LayerTensors tucker = factors(at::randn({4, 8, 1, 1}), at::randn({16, 4, 1, 1}) * 1e-8);
  tucker["lora_mid.weight"] = at::randn({4, 4, 3, 3});
  for (const auto& file : {loha, lokr, tucker}) {
    SCOPED_TRACE(file.begin()->first);
    auto [tensors, loss] = fit(file, at::kHalf);
    EXPECT_TRUE(loss.rescaled);
    EXPECT_EQ(loss.flushed, 0);
    expect_close(change(cast(tensors, at::kHalf)), change(file), 3e-3);
    double least = INFINITY, most = 0;
    for (const auto& [suffix, tensor] : tensors) {
      auto size = largest(tensors, suffix.c_str());
      least = std::min(least, size);
      most = std::max(most, size);
    }
    EXPECT_LE(most, 4 * least) << "all have one size";
  }
}

TEST(Fitted, WhatFitsStaysAsItIs) {
  at::manual_seed(1);
  auto same = [](const LayerTensors& file, Dtype dtype) {
    auto [tensors, loss] = fit(file, dtype);
    EXPECT_FALSE(loss.rescaled);
    for (const auto& [suffix, tensor] : tensors) EXPECT_TRUE(tensor.is_same(get(file, suffix))) << suffix;
    return loss;
  };
  auto file = factors(numbers({4, 24}, 0.1), numbers({16, 4}, 1e-3));
  for (auto dtype : {at::kHalf, at::kBFloat16, at::kFloat}) same(file, dtype);
  same(factors(numbers({4, 24}, 1), numbers({16, 4}, 1e-9)), at::kBFloat16);  // it has the range of float32
  // A factor that starts at zero is no loss.
  EXPECT_FALSE(same(factors(numbers({4, 24}, 0.1), at::zeros({16, 4})), at::kHalf).dead);
  // Both have one size already, and do not fit.
  EXPECT_TRUE(same(factors(numbers({4, 24}, 1e-9), numbers({16, 4}, 1e-9)), at::kHalf).dead);
  EXPECT_TRUE(same(factors(numbers({4, 24}, 1.2e6), numbers({16, 4}, 1.2e6)), at::kHalf).overflowing);
}

TEST(Fitted, OnlyWhatIsCastCounts) {
  at::manual_seed(1);
  auto file = factors(numbers({4, 24}, 0.1), numbers({16, 4}, 0.1));
  file["dora_scale"] = at::full({16, 1}, 1e6);
  EXPECT_EQ(fit(file, at::kHalf).loss.overflowing, "dora_scale");
  auto [tensors, loss] = fitted(file, at::kHalf, [](auto suffix) { return suffix != "dora_scale"; });
  EXPECT_FALSE(loss.overflowing);
}

// ---- Losses ---------------------------------------------------------------------------------------------------------

TEST(Fitted, TheErrorIsNeverMoreThanTold) {
  at::manual_seed(1);
  for (const auto& [dtype, zero, precise, infinite] : kEdges)
    for (double size : {infinite / 8, 1.0, precise * 4, precise, precise / 4, zero * 4, zero}) {
      SCOPED_TRACE(fmt::format("{} {}", to_string(dtype), size));
      auto diff = at::randn({64, 64}, at::kDouble).clamp(-4, 4) * size;
      diff[0] = precise * 4;
      auto loss = fit({{"diff", diff.to(at::kFloat)}}, dtype).loss;
      EXPECT_FALSE(loss.overflowing);
      auto error = error_of_cast(diff.to(at::kFloat), dtype);
      EXPECT_LE(error, loss.error * (1 + 1e-9));
      // Where only rounding costs, the bound is not far from the error.
      if (size >= precise * 4) {
        EXPECT_LE(loss.error, 8 * error);
      }
    }
}

TEST(Fitted, ABiasThatBecomesZeroIsNoDeadLayer) {
  at::manual_seed(1);
  auto file = factors(numbers({4, 24}, 0.1), numbers({16, 4}, 0.1));
  auto tiny = at::full({16}, 1e-9);
  EXPECT_FALSE(fit(file, at::kHalf).loss.dead);
  for (const char* suffix : {"diff_b", "base_layer.bias", "lora_B.bias"}) {
    auto with_bias = file;
    with_bias[suffix] = tiny;
    auto loss = fit(with_bias, at::kHalf).loss;
    EXPECT_FALSE(loss.dead) << suffix;
    EXPECT_EQ(loss.flushed, 16) << suffix;
    EXPECT_EQ(loss.error_of_flushed, 1) << suffix;
  }
  EXPECT_EQ(fit({{"diff_b", tiny}}, at::kHalf).loss.dead, "diff_b");
}

TEST(Fitted, RoundingIsAllThatAWiderRangeCosts) {
  auto loss = fit({{"diff", at::ones({4, 4}, at::kHalf)}}, at::kHalf).loss;
  EXPECT_EQ(loss.error, 0);
  EXPECT_EQ(fit({{"diff", at::ones({4, 4}, at::kHalf)}}, at::kBFloat16).loss.error, 0x1p-8);
}

TEST(TellLosses, OneNoteForEachKindOfLoss) {
  auto advice = [](const std::string& wider) { return "take " + wider; };
  std::map<std::string, DtypeLoss> losses;
  losses["a"] = {.dtype = at::kHalf, .flushed = 24, .nonzero = 384, .error_of_flushed = 0.03};
  losses["b"] = {.dtype = at::kHalf, .flushed = 1, .nonzero = 16, .error_of_flushed = 0.12, .rescaled = true};
  losses["c"] = {.dtype = at::kFloat8_e4m3fn, .rescaled = true};
  losses["d"] = {.dtype = at::kHalf, .error = 0x1p-11};
  EXPECT_THAT(
      tell_losses(losses, "file", advice),
      testing::UnorderedElementsAre(
          "float16 cannot hold all numbers of the factors of 1 layer as they are. The factors were multiplied by "
          "powers of two, and their products are the same: b",
          "25 of 400 numbers in 2 layers are so small that float16 makes them 0; a tensor loses at most 12 % of its "
          "size: a, b; take bfloat16 or float32",
          "float8_e4m3fn cannot hold all numbers of the factors of 1 layer as they are. The factors were multiplied "
          "by powers of two, and their products are the same: c"));
  EXPECT_THAT(tell_losses({}, "file", advice), IsEmpty());
}

TEST(TellLosses, NamesTheLayersThatTheDtypeCannotHold) {
  auto advice = [](const std::string& wider) { return "take " + wider; };
  auto message = [&](const std::map<std::string, DtypeLoss>& losses) {
    return error_of(ErrorKind::unsupported, [&] { tell_losses(losses, "file", advice); });
  };
  EXPECT_EQ(message({{"a", {.dtype = at::kHalf, .overflowed = 3, .overflowing = "diff"}},
                     {"b", {.dtype = at::kHalf, .overflowed = 2, .overflowing = "lora_A.weight"}}}),
            "file: float16 cannot hold 5 numbers of 2 layers, which are too large for it: a (diff), b "
            "(lora_A.weight); take bfloat16 or float32");
  EXPECT_EQ(message({{"a", {.dtype = at::kBFloat16, .dead = "diff"}}}),
            "file: bfloat16 cannot hold 1 layer: all numbers of a tensor are too small for it and would become 0: a "
            "(diff); take float32");
  EXPECT_EQ(message({{"the word \"x\"", {.dtype = at::kHalf, .dead = ""}}}),
            "file: float16 cannot hold 1 layer: all numbers of a tensor are too small for it and would become 0: the "
            "word \"x\"; take bfloat16 or float32");
}

}  // namespace lora
