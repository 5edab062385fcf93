#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lora/error.h"
#include "lora/state_dict.h"
#include "nn/random.h"
#include "schedulers/sigmas.h"
#include "schedulers/timesteps.h"

namespace lora {

namespace {

StateDict reference() { return load_state_dict(LORA_SOURCE_DIR "/tests/data/schedulers/runs.safetensors"); }

Tensor draw(at::IntArrayRef shape, const std::vector<at::Generator>& generators) {
  return randn_tensor(shape, generators, at::kFloat, at::kCPU);
}

}  // namespace

TEST(Random, SeedsGiveTorchsNumbers) {
  auto data = reference();
  EXPECT_TRUE(at::equal(draw({2, 3}, {make_generator((uint64_t{1} << 40) + 7)}), data.at("random/one")));
  // Sixteen numbers or more are drawn by another path than fewer, and bfloat16 by its own.
  EXPECT_TRUE(at::equal(draw({2, 20}, {make_generator(7)}), data.at("random/long")));
  EXPECT_TRUE(
      at::equal(randn_tensor({2, 20}, {make_generator(7)}, at::kBFloat16, at::kCPU), data.at("random/bfloat16")));
}

TEST(Random, AGeneratorAnImageMakesImagesIndependent) {
  auto both = draw({2, 4, 3}, {make_generator(1), make_generator(2)});
  EXPECT_TRUE(at::equal(both.slice(0, 0, 1), draw({1, 4, 3}, {make_generator(1)})));
  EXPECT_TRUE(at::equal(both.slice(0, 1, 2), draw({1, 4, 3}, {make_generator(2)})));
  EXPECT_FALSE(at::equal(both, draw({2, 4, 3}, {make_generator(1)})));
}

TEST(Random, NoGeneratorMeansTorchsDefaultOne) {
  at::manual_seed(5);
  auto first = draw({3}, {});
  at::manual_seed(5);
  EXPECT_TRUE(at::equal(first, at::randn({3})));
}

TEST(Random, RefusesAnotherCountOfGenerators) {
  for (size_t count : {2, 4}) {
    std::vector<at::Generator> generators(count, make_generator(1));
    try {
      draw({3, 2}, generators);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(error.what(), testing::HasSubstr("for a batch of 3"));
    }
  }
  EXPECT_THROW(draw({3}, {at::Generator()}), Error);
}

TEST(NumpyLog, IsNumpysToTheLastBit) {
  auto data = reference();
  const auto &x = data.at("log/x"), &y = data.at("log/y");
  for (int64_t i = 0; i < x.numel(); ++i) EXPECT_EQ(numpy_log(x[i].item<float>()), y[i].item<float>());
  EXPECT_EQ(numpy_log(1), 0);
}

TEST(NumpyRanges, AreNumpys) {
  EXPECT_THAT(numpy_linspace(0, 1, 1), testing::ElementsAre(0));
  EXPECT_THAT(numpy_linspace(0, 999, 4), testing::ElementsAre(0, 333, 666, 999));
  EXPECT_EQ(numpy_linspace(0.1, 0.7, 7).back(), 0.7);
  EXPECT_THAT(numpy_arange(4, 0, -1), testing::ElementsAre(4, 3, 2, 1));
  EXPECT_TRUE(numpy_arange(0, 4, -1).empty());
  // 1000 / (1000 / 61) is a little more than 61 in float64.
  EXPECT_EQ(numpy_arange(1000, 0, -1000.0 / 61).size(), 62u);
  EXPECT_THAT(rounded({0.5, 1.5, 2.5, 2.6}), testing::ElementsAre(0, 2, 2, 3));
}

TEST(SigmaTable, ConvertsBothWays) {
  SigmaTable table(at::tensor({0.9f, 0.5f, 0.1f}));
  EXPECT_FLOAT_EQ(static_cast<float>(table.least()), 1.0f / 3);
  EXPECT_EQ(table.most(), 3);
  EXPECT_EQ(table.at_timestep(1), 1);
  EXPECT_EQ(table.at_timestep(1.5), 2);
  EXPECT_EQ(table.at_timestep(-1), table.least());
  EXPECT_EQ(table.at_timestep(7), 3);
  EXPECT_EQ(table.to_timestep(1), 1);
  EXPECT_EQ(table.to_timestep(100), 2);
  EXPECT_EQ(table.to_timestep(0), 0);
  EXPECT_NEAR(table.to_timestep(std::sqrt(3.0)), 1.5, 1e-6);
}

}  // namespace lora
