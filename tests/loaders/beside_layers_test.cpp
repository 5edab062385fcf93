// Tensors beside a layer that change nothing, and tensors that a file has twice.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "loaders/tiny_pipeline.h"
#include "lora/lora_file.h"

namespace lora {

namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

const std::string kPath = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
const std::string kFlat = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";

StateDict kohya(int64_t rank = 2) {
  return {{kFlat + ".lora_down.weight", at::ones({rank, 20})}, {kFlat + ".lora_up.weight", at::ones({20, rank})}};
}

Tensor number(double value) { return at::scalar_tensor(value); }

Tensor output_with(const StateDict& file, const LoadLoraOptions& options = {}) {
  TinyPipeline pipe;
  pipe.load_lora_weights(file, options);
  return pipe.run("unet");
}

struct Beside {
  const char* name;
  std::string end;
  Tensor tensor;
};

std::string name_of(const testing::TestParamInfo<Beside>& test) { return test.param.name; }

}  // namespace

class WithoutEffect : public testing::TestWithParam<Beside> {};

TEST_P(WithoutEffect, IsANoteAndTheLayerActsAsBefore) {
  const auto& [name, end, tensor] = GetParam();
  auto file = kohya();
  file.set(kFlat + end, tensor);
  TinyPipeline pipe;
  auto report = pipe.load_lora_weights(file);
  ASSERT_THAT(report.unmatched, SizeIs(1));
  EXPECT_EQ(report.unmatched[0].key, kFlat + end);
  EXPECT_THAT(report.text(), Not(HasSubstr("not whole")));
  EXPECT_TRUE(at::equal(pipe.run("unet"), output_with(kohya())));
}

INSTANTIATE_TEST_SUITE_P(All, WithoutEffect,
                         testing::Values(Beside{"rank", ".rank", number(2)}, Beside{"r", ".r", number(2)},
                                         Beside{"dim", ".lora_dim", at::tensor(2)},
                                         Beside{"dim_in_a_list", ".network_dim", at::tensor({2.0})},
                                         Beside{"multiplier", ".multiplier", number(1)},
                                         Beside{"scalar", ".scalar", number(1)},
                                         Beside{"norm", ".initial_norm", number(3.5)},
                                         Beside{"zero_bias", ".lora_down.bias", at::zeros({2})}),
                         name_of);

class WithEffect : public testing::TestWithParam<Beside> {};

TEST_P(WithEffect, IsRefusedByName) {
  const auto& [name, end, tensor] = GetParam();
  auto file = kohya();
  file.set(kFlat + end, tensor);
  TinyPipeline pipe;
  EXPECT_THAT(error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(file); }), HasSubstr(kFlat + end));
  EXPECT_TRUE(at::equal(output_with(file, {.partial = PartialLora::allow}), output_with(kohya())));
}

INSTANTIATE_TEST_SUITE_P(
    All, WithEffect,
    testing::Values(Beside{"another_rank", ".rank", number(3)}, Beside{"multiplier", ".multiplier", number(0.5)},
                    Beside{"scalar", ".scalar", number(0)}, Beside{"many_scalars", ".scalar", at::ones({20})},
                    Beside{"unknown_number", ".gate", number(1)}, Beside{"bias", ".lora_down.bias", at::ones({2})}),
    name_of);

// ---- The same tensor twice ------------------------------------------------------------------------------------------

namespace {

// Two spellings of one tensor each: a file that has the first gets the second too.
struct Twice {
  const char* name;
  std::string first, second;
  std::vector<int64_t> shape;
};

const std::string kPeft = "base_model.model." + kPath, kDiffusers = "unet." + kPath;

std::string name_of_twice(const testing::TestParamInfo<Twice>& test) { return test.param.name; }

StateDict with_factors(const Twice& row) {
  StateDict file;
  if (auto where = row.first.find("lora_A"); where != std::string::npos) {
    file.set(std::string(row.first).replace(where, 6, "lora_B"), at::ones({20, 2}));
  } else {
    file.set(kDiffusers + ".lora_A.weight", at::ones({2, 20}));
    file.set(kDiffusers + ".lora_B.weight", at::ones({20, 2}));
  }
  file.set(row.first, at::ones(row.shape));
  return file;
}

}  // namespace

class SaidTwice : public testing::TestWithParam<Twice> {};

TEST_P(SaidTwice, WithTheSameNumbersIsANote) {
  auto once = with_factors(GetParam()), twice = once;
  twice.set(GetParam().second, at::ones(GetParam().shape, at::kHalf));
  TinyPipeline pipe;
  auto report = pipe.load_lora_weights(twice);
  ASSERT_THAT(report.unmatched, SizeIs(1));
  EXPECT_THAT(report.unmatched[0].reason, HasSubstr("the same numbers as"));
  EXPECT_TRUE(at::equal(pipe.run("unet"), output_with(once)));
}

TEST_P(SaidTwice, WithOtherNumbersIsRefused) {
  auto once = with_factors(GetParam()), twice = once;
  twice.set(GetParam().second, at::full(GetParam().shape, 0.5));
  TinyPipeline pipe;
  EXPECT_THAT(error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(twice); }),
              AllOf(HasSubstr(GetParam().first), HasSubstr(GetParam().second), HasSubstr("one adapter")));
  EXPECT_THAT(pipe.get_list_adapters(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(
    All, SaidTwice,
    testing::Values(Twice{"two_adapters", kPeft + ".lora_A.x.weight", kPeft + ".lora_A.y.weight", {2, 20}},
                    Twice{"dialects", kDiffusers + ".lora_A.weight", kPeft + ".lora_A.weight", {2, 20}},
                    Twice{"peft_and_kohya", kDiffusers + ".lora_A.weight", kFlat + ".lora_down.weight", {2, 20}},
                    Twice{"alphas", kDiffusers + ".alpha", kFlat + ".alpha", {}}),
    name_of_twice);

// The first is in diffusers' names, the second in those of the original model.
TEST(SaidTwiceInNativeNames, IsComparedToo) {
  const std::string native = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q";
  auto with_native = [&](double value) {
    auto file = kohya();
    file.set(native + ".lora_down.weight", at::full({2, 20}, value));
    file.set(native + ".lora_up.weight", at::ones({20, 2}));
    return file;
  };
  TinyPipeline pipe;
  EXPECT_THAT(error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(with_native(0.5)); }),
              AllOf(HasSubstr(kFlat), HasSubstr(native)));
  EXPECT_THAT(pipe.load_lora_weights(with_native(1)).unmatched, SizeIs(2));
  EXPECT_TRUE(at::equal(pipe.run("unet"), output_with(kohya())));
}

// ---- Several adapters -----------------------------------------------------------------------------------------------

TEST(SeveralAdapters, HalvesOfTwoAreNoPair) {
  const std::pair<std::string, std::string> halves[] = {
      {kDiffusers + ".lora_A.weight", kFlat + ".lora_up.weight"},
      {kFlat + ".lora_down.weight", kPeft + ".lora_B.weight"},
      {kDiffusers + ".lora_A.one.weight", kDiffusers + ".lora_B.two.weight"}};
  TinyPipeline pipe;
  for (const auto& [down, up] : halves) {
    const StateDict file{{down, at::ones({2, 20})}, {up, at::ones({20, 2})}};
    EXPECT_THAT(error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(file); }),
                AllOf(HasSubstr(down), HasSubstr(up)));
    error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(file, {.partial = PartialLora::allow}); });
  }
}

// The first spelling has a strength of its own, and the second does not.
TEST(SeveralAdapters, EqualFactorsOfTwoStrengthsAreRefused) {
  auto file = kohya();
  file.set(kFlat + ".alpha", number(1));
  file.set(kDiffusers + ".lora_A.weight", at::ones({2, 20}));
  file.set(kDiffusers + ".lora_B.weight", at::ones({20, 2}));
  TinyPipeline pipe;
  EXPECT_THAT(error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(file); }),
              AllOf(HasSubstr(kFlat), HasSubstr(kDiffusers)));
  file.set(kDiffusers + ".alpha", number(1));
  EXPECT_THAT(pipe.load_lora_weights(file).unmatched, SizeIs(3));
}

TEST(SeveralAdapters, OfDifferentLayersActTogetherWithANote) {
  auto pair = [](const std::string& layer, const std::string& name) {
    return StateDict{{"unet." + layer + ".lora_A." + name + ".weight", at::ones({2, 20})},
                     {"unet." + layer + ".lora_B." + name + ".weight", at::ones({20, 2})}};
  };
  const auto other = kPath.substr(0, kPath.size() - 1) + "v";
  auto file = pair(kPath, "one");
  TinyPipeline pipe;
  EXPECT_THAT(pipe.load_lora_weights(file).text(), Not(HasSubstr("adapters")));
  for (const auto& [key, tensor] : pair(other, "two")) file.set(key, tensor);
  auto report = pipe.load_lora_weights(file);
  EXPECT_EQ(report.matched_layers(), 2u);
  EXPECT_THAT(report.text(), HasSubstr("2 adapters, which act together as one: one, two"));
}

}  // namespace lora
