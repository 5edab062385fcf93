// Random sets of kinds, over all components, in two adapters at once: fused is active, and undone is as before.
#include <random>

#include "lora/pipelines.h"
#include "models/parts_of.h"
#include "support/compare.h"
#include "support/random_layers.h"

namespace lora {

namespace {

LoraFile random_file(StableDiffusionPipeline& pipe, std::mt19937& random) {
  LoraFile file{.source = "made"};
  auto chance = [&](double p) { return std::uniform_real_distribution<>()(random) < p; };
  for (auto [component, model] :
       {std::pair<const char*, Model*>{"unet", &pipe.unet}, {"text_encoder", &pipe.text_encoder}})
    for (const auto& site : parts_of(*model).sites) {
      if (site->kind == SiteKind::embedding || !chance(0.4)) continue;
      auto shape = site->weight.sizes().vec();
      Weight weight{site->path, shape[0], site->weight.numel() / shape[0], {}, site->kind == SiteKind::norm};
      if (site->kind == SiteKind::conv2d) weight.kernel = {shape[2], shape[3]};
      const auto& kind = kind_cases().at(random() % kind_cases().size());
      bool even = weight.rows % 2 == 0 && weight.columns % 2 == 0;
      // A layer without a bias cannot have a difference of it in its weights.
      if (!even && !weight.norm) continue;
      auto layer = layer_for(kind, component, weight);
      if (!site->bias.defined()) layer.tensors.erase("diff_b");
      file.layers.push_back(layer);
    }
  return file;
}

Tensor latents(const StableDiffusionPipeline& pipe) {
  return pipe.generate_latents("rocket", {.num_inference_steps = 1, .guidance_scale = 1, .seed = {3}});
}

StableDiffusionPipeline tiny_model(Dtype dtype) {
  return StableDiffusionPipeline::from_pretrained(std::string(LORA_SOURCE_DIR) + "/models/tiny", {.dtype = dtype});
}

// Two adapters of kinds that follow from the seed, both active.
void load_two(StableDiffusionPipeline& pipe, unsigned seed) {
  std::mt19937 random(seed);
  at::manual_seed(seed);
  pipe.load_lora_weights(random_file(pipe, random), {.adapter_name = "a"});
  pipe.load_lora_weights(random_file(pipe, random), {.adapter_name = "b"});
  pipe.set_adapters({"a", "b"}, {0.3, 0.2});
}

}  // namespace

TEST(RandomKinds, FusedIsActiveAndUndoneIsAsBefore) {
  auto pipe = tiny_model(at::kFloat);
  const auto base = latents(pipe);
  for (unsigned seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    load_two(pipe, seed);
    const auto active = latents(pipe);
    EXPECT_FALSE(at::equal(active, base));
    pipe.fuse_lora();
    expect_close(latents(pipe), active, 2e-5);
    pipe.unfuse_lora();
    EXPECT_TRUE(at::equal(latents(pipe), active));
    pipe.unload_lora_weights();
    EXPECT_TRUE(at::equal(latents(pipe), base));
  }
}

// In float16, most layers lose a part of their change when they are fused.
TEST(RandomKinds, LossyLayersActAsActiveOnes) {
  auto pipe = tiny_model(at::kHalf);
  const auto base = latents(pipe);
  for (unsigned seed = 0; seed < 4; ++seed) {
    SCOPED_TRACE(seed);
    load_two(pipe, seed);
    const auto active = latents(pipe);
    size_t in_weights = 1000;
    for (double max_loss : {0.0, 0.02, 1.0}) {
      auto measured = pipe.measure_fuse({.max_loss = max_loss});
      auto report = pipe.fuse_lora({.max_loss = max_loss});
      EXPECT_EQ(report.layers.size(), measured.layers.size());
      EXPECT_EQ(report.stays_active(), measured.stays_active());
      for (const auto& layer : report.layers) EXPECT_EQ(layer.stays_active, layer.lost > max_loss) << layer.path;
      if (max_loss == 0) {
        EXPECT_TRUE(at::equal(latents(pipe), active)) << "all that could lose something is active";
      }
      if (max_loss == 1) {
        EXPECT_EQ(report.stays_active(), 0u);
      }
      EXPECT_NE(report.fused(), in_weights) << "each limit divides the layers in another way";
      in_weights = report.fused();
      expect_close(latents(pipe), active, 0.05);
      // Adapters of a call replace active ones, and leave what is fused.
      auto with_none = pipe.generate_latents(
          "rocket",
          {.num_inference_steps = 1, .guidance_scale = 1, .seed = {3}, .adapters = std::vector<CallAdapter>{}});
      EXPECT_TRUE(at::equal(with_none, latents(pipe)));
      pipe.unfuse_lora();
      EXPECT_TRUE(at::equal(latents(pipe), active));
    }
    pipe.fuse_lora({.max_loss = 0.02});
    pipe.unload_lora_weights();
    EXPECT_FALSE(at::equal(latents(pipe), base));
    pipe.unfuse_lora();
    EXPECT_TRUE(at::equal(latents(pipe), base));
  }
}

}  // namespace lora
