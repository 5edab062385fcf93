// AutoencoderKL in tiles and slices, against diffusers (tools/reference/make_vae_tiles.py).
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <limits>
#include <thread>

#include "lora/autoencoders.h"
#include "models/reference_cases.h"
#include "support/compare.h"

namespace lora {
namespace {

constexpr double kFloat32Tolerance = 1e-5;
constexpr double kMuch = std::numeric_limits<double>::infinity();

const reference::Cases<AutoencoderKL> kCases("vae_tiles");

TilingOptions tiling_of(const json& reference_case) {
  TilingOptions options;
  if (!reference_case.contains("tile")) return options;
  return {.tile_sample_min_size = reference_case["tile"], .tile_overlap_factor = reference_case["overlap"]};
}

std::map<std::string, Tensor> run(const AutoencoderKL& vae, const std::string& name) {
  const auto& reference_case = kCases[name];
  const auto step = reference_case.value("step", std::vector<int64_t>{1, 1});
  auto part = [&](const Tensor& t) { return t.slice(2, 0, t.size(2), step[0]).slice(3, 0, t.size(3), step[1]); };
  auto pixels = reference::input(name + ".pixels", reference_case["pixels"].get<std::vector<int64_t>>());
  auto posterior = vae.encode(pixels.to(vae.dtype()));
  auto latents = reference::input(name + ".latents", posterior.mean.sizes());
  return {{"mean", part(posterior.mean)},
          {"logvar", part(posterior.logvar)},
          {"decoded", part(vae.decode(latents.to(vae.dtype())))}};
}

}  // namespace

TEST(VaeTiles, AreDiffusers) {
  c10::InferenceMode inference;
  for (const auto& [name, reference_case] : kCases.all().items()) {
    auto vae = kCases.make(name);
    vae.enable_tiling(tiling_of(reference_case));
    for (const auto& [what, value] : run(vae, name))
      EXPECT_LT(distance(value, kCases.expected(name + ".float32." + what)), kFloat32Tolerance) << name << " " << what;
    if (name != "sd3") continue;
    auto half = kCases.make(name, at::kBFloat16);
    half.enable_tiling(tiling_of(reference_case));
    for (const auto& [what, value] : run(half, name)) {
      SCOPED_TRACE(name + " " + what);
      expect_as_accurate(value, kCases.expected(name + ".bfloat16." + what),
                         kCases.expected(name + ".float32." + what));
    }
  }
}

TEST(VaeTiles, SlicesChangeNothing) {
  c10::InferenceMode inference;
  auto vae = kCases.make("sd");
  for (bool tiles : {false, true}) {
    tiles ? vae.enable_tiling() : vae.disable_tiling();
    vae.disable_slicing();
    const auto whole = run(vae, "sd");
    vae.enable_slicing();
    for (const auto& [what, value] : run(vae, "sd")) EXPECT_LT(distance(value, whole.at(what)), 1e-5) << what;
  }
}

TEST(VaeTiles, AnImageOfOneTileIsWhole) {
  c10::InferenceMode inference;
  auto vae = kCases.make("sd");
  const auto latents = reference::input("tiles.one", {1, 4, 8, 8});
  const auto whole = vae.decode(latents);
  vae.enable_tiling();
  EXPECT_FALSE(vae.uses_tiles(16, 16));
  EXPECT_TRUE(vae.uses_tiles(16, 18));
  EXPECT_TRUE(at::equal(vae.decode(latents), whole));
  const auto wide = reference::input("tiles.two", {1, 4, 8, 12});
  const auto in_tiles = vae.decode(wide);
  vae.disable_tiling();
  EXPECT_FALSE(vae.uses_tiles(1000, 1000, /*free=*/0));
  EXPECT_GT(distance(in_tiles, vae.decode(wide)), 1e-3);
}

// Where nothing is set, the memory decides: first about slices, then about tiles.
TEST(VaeTiles, AreTakenWhereTheMemoryIsMissing) {
  const auto vae = kCases.make("sd");
  EXPECT_FALSE(vae.uses_tiles(4000, 4000, kMuch));
  EXPECT_TRUE(vae.uses_tiles(4000, 4000, 1e6));
  EXPECT_FALSE(vae.uses_tiles(16, 16, 0)) << "smaller than a tile";
  const auto one = vae.decoding_memory(1, 64, 64, kMuch);
  EXPECT_EQ(one, 64 * 64 * (3.5 * 16 + 3) * 4) << "3.5 maps of 16 channels, and the image";
  EXPECT_EQ(vae.decoding_memory(3, 64, 64, kMuch), 3 * one);
  EXPECT_EQ(vae.decoding_memory(3, 64, 64, one), 64 * 64 * (3.5 * 16 + 9) * 4) << "one by one";
  EXPECT_EQ(vae.decoding_memory(3, 64, 64, 0), (16 * 16 * 3.5 * 16 + 64 * 64 * 9) * 4) << "in tiles";
  const auto half = kCases.make("sd", at::kBFloat16);
  EXPECT_EQ(half.decoding_memory(1, 64, 64, kMuch), 64 * 64 * (4.5 * 16 + 3) * 2);
}

TEST(VaeTiles, ThatDoNotFitAreRefused) {
  auto vae = kCases.make("sd3");
  for (int64_t side : {-4, 0, 3, 10})
    expect_error(ErrorKind::usage, HasSubstr("tile_sample_min_size is"),
                 [&] { vae.enable_tiling({.tile_sample_min_size = side}); });
  for (double overlap : {-0.1, 1.0, 2.0, 0.3, std::nan("")})
    expect_error(ErrorKind::usage, HasSubstr("tile_overlap_factor is"),
                 [&] { vae.enable_tiling({.tile_sample_min_size = 32, .tile_overlap_factor = overlap}); });
  EXPECT_FALSE(vae.uses_tiles(4000, 4000, kMuch)) << "nothing was set";
}

TEST(VaeTiles, ACallTakesTheSettingsOfItsBeginning) {
  c10::InferenceMode inference;
  auto vae = kCases.make("sd");
  const auto latents = reference::input("tiles.threads", {1, 4, 8, 12});
  vae.disable_tiling();
  const auto whole = vae.decode(latents);
  vae.enable_tiling();
  const auto in_tiles = vae.decode(latents);
  std::atomic<bool> done = false;
  std::thread changing([&] {
    while (!done) {
      vae.disable_tiling();
      vae.enable_slicing();
      vae.enable_tiling();
    }
  });
  for (int i = 0; i < 50; ++i) {
    const auto decoded = vae.decode(latents);
    EXPECT_TRUE(at::equal(decoded, whole) || at::equal(decoded, in_tiles));
  }
  done = true;
  changing.join();
}

TEST(VqModel, DecodesInSlices) {
  c10::InferenceMode inference;
  const reference::Cases<VQModel> cases("vq");
  const auto name = cases.all().items().begin().key();
  auto model = cases.make(name);
  const auto tokens = reference::tokens("slices", {3, 4, 6}, model.num_vq_embeddings());
  model.disable_slicing();
  const auto whole = model.decode(tokens);
  EXPECT_GT(model.decoding_memory(3, 64, 64, 0), 2.9 * model.decoding_memory(1, 64, 64, 0));
  model.enable_slicing();
  EXPECT_LT(distance(model.decode(tokens), whole), 1e-5);
  EXPECT_LT(model.decoding_memory(3, 64, 64, kMuch), 1.5 * model.decoding_memory(1, 64, 64, kMuch));
  EXPECT_TRUE(at::equal(model.encode(whole.clamp(0, 1)), [&] {
    model.disable_slicing();
    return model.encode(whole.clamp(0, 1));
  }()));
}

}  // namespace lora
