// Adapters of one call: by steps, by images, by regions, and from several threads at once.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <thread>

#include "lora/pipelines.h"
#include "support/compare.h"

namespace lora {

namespace {

StableDiffusionPipeline with_loras() {
  auto pipe = StableDiffusionPipeline::from_pretrained(embedded_models() / "tiny", {.dtype = at::kFloat});
  pipe.load_lora_weights(embedded_models() / "loras" / "ink.safetensors", {.adapter_name = "ink"});
  pipe.load_lora_weights(embedded_models() / "loras" / "neon-kohya.safetensors", {.adapter_name = "neon"});
  pipe.set_adapters({});
  return pipe;
}

CallOptions options() { return {.num_inference_steps = 4, .guidance_scale = 4, .seed = {3}}; }

Tensor draw(const StableDiffusionPipeline& pipe, const CallOptions& o) { return pipe.generate_latents("red apple", o); }

Tensor draw_with(const StableDiffusionPipeline& pipe, std::vector<CallAdapter> adapters) {
  auto o = options();
  o.adapters = std::move(adapters);
  return draw(pipe, o);
}

}  // namespace

TEST(CallAdapters, AreThoseOfTheCallAlone) {
  auto pipe = with_loras();
  auto base = draw(pipe, options());
  pipe.set_adapters({"neon", "ink"}, {0.8, 0.5});
  auto mixed = draw(pipe, options());
  pipe.set_adapters({"ink"});
  auto ink = draw(pipe, options());

  EXPECT_TRUE(at::equal(draw_with(pipe, {{.name = "neon", .weight = 0.8}, {.name = "ink", .weight = 0.5}}), mixed));
  EXPECT_TRUE(at::equal(draw_with(pipe, {}), base)) << "an empty list is no adapter";
  EXPECT_TRUE(at::equal(draw(pipe, options()), ink)) << "the pipeline's own are as they were";
  EXPECT_EQ(pipe.get_active_adapters(), std::vector<std::string>{"ink"});
  EXPECT_FALSE(at::equal(ink, base));
  EXPECT_NE(error_of(ErrorKind::not_found, [&] { draw_with(pipe, {{.name = "inc"}}); }).find("ink"), std::string::npos);
}

TEST(CallAdapters, WhatIsFusedStaysAndIsNotAppliedTwice) {
  auto pipe = with_loras();
  pipe.set_adapters({"ink"});
  auto ink = draw(pipe, options());
  pipe.fuse_lora();
  expect_close(draw_with(pipe, {{.name = "ink"}}), ink, 1e-4);
  pipe.unfuse_lora();
  EXPECT_TRUE(at::equal(draw(pipe, options()), ink));
}

// While adapters are disabled, the weights do not have a fused adapter, so a call may apply it.
TEST(CallAdapters, ActWhileLorasAreDisabled) {
  auto pipe = with_loras();
  auto ink = draw_with(pipe, {{.name = "ink", .weight = 0.7}}), base = draw_with(pipe, {});
  pipe.set_adapters({"ink"});
  pipe.fuse_lora();
  pipe.disable_lora();
  EXPECT_TRUE(at::equal(draw(pipe, options()), base));
  EXPECT_TRUE(at::equal(draw_with(pipe, {{.name = "ink", .weight = 0.7}}), ink));
}

TEST(CallAdapters, TheRuntimeScaleMultipliesWeights) {
  auto pipe = with_loras();
  pipe.set_adapters({"ink", "neon"}, {0.3, 0.2});
  auto wanted = draw(pipe, options());
  pipe.set_adapters({"ink", "neon"}, {0.6, 0.4});
  auto o = options();
  o.cross_attention_kwargs.scale = 0.5;
  EXPECT_TRUE(at::equal(draw(pipe, o), wanted));
  o.cross_attention_kwargs.scale = 0;
  auto off = draw(pipe, o);
  o.cross_attention_kwargs.scale = 0.5;
  EXPECT_TRUE(at::equal(draw(pipe, o), wanted)) << "a scale of zero leaves nothing behind";
  pipe.set_adapters({});
  EXPECT_TRUE(at::equal(draw(pipe, options()), off));
}

TEST(CallAdapters, SchedulesChangeTheWeightAtTheirSteps) {
  auto pipe = with_loras();
  // Without guidance and from embeddings, each step is one call of the UNet.
  CallOptions o{.num_inference_steps = 4, .guidance_scale = 1, .seed = {5}};
  o.prompt_embeds = pipe.encode_prompt("red apple");
  auto at_steps = [&](LoraSchedule schedule) {
    auto call = o;
    call.adapters = {{.name = "ink", .weight = 0.9, .schedule = schedule}};
    std::vector<Tensor> latents;
    call.callback_on_step_end = [&](const StepEnd& end) {
      latents.push_back(end.latents.clone());
      return true;
    };
    pipe.generate_latents({}, call);
    return latents;
  };
  auto on = at_steps({}), off = at_steps([](int, int) { return 0.0; });
  auto half = at_steps(LoraSchedule::by_fraction({{0, 1}, {0.5, 0}}));
  EXPECT_TRUE(at::equal(half[1], on[1]));
  EXPECT_FALSE(at::equal(half[2], on[2]));
  auto late = at_steps(LoraSchedule::by_step({{0, 0}, {3, 1}}));
  EXPECT_TRUE(at::equal(late[2], off[2]));
  EXPECT_FALSE(at::equal(late[3], off[3]));
  std::vector<std::pair<int, int>> asked;
  at_steps([&](int step, int steps) {
    asked.emplace_back(step, steps);
    return 1.0;
  });
  EXPECT_EQ(asked.back(), (std::pair{3, 4}));
  EXPECT_NE(error_of(ErrorKind::usage, [&] { at_steps([](int, int) { return std::nan(""); }); }).find("step 0 of 4"),
            std::string::npos);
}

TEST(CallAdapters, EachImageOfABatchHasItsOwn) {
  auto pipe = with_loras();
  auto o = options();
  o.num_images_per_prompt = 4;
  o.seed = {1, 2, 3, 4};
  o.adapters_per_image = {
      {{.name = "ink"}}, {}, {{.name = "neon", .weight = 0.7}, {.name = "ink", .weight = -0.4}}, {{.name = "ink"}}};
  auto batch = draw(pipe, o);
  for (size_t i = 0; i < 4; ++i) {
    auto one = options();
    one.seed = {i + 1};
    one.adapters = o.adapters_per_image[i];
    expect_close(batch[int64_t(i)], draw(pipe, one)[0], 1e-4);
  }
  o.adapters_per_image.pop_back();
  error_of(ErrorKind::usage, [&] { draw(pipe, o); });
}

TEST(CallAdapters, MasksSayWhere) {
  auto pipe = with_loras();
  auto all = draw_with(pipe, {{.name = "ink"}}), none = draw_with(pipe, {});
  expect_close(draw_with(pipe, {{.name = "ink", .mask = at::ones({64, 64})}}), all, 1e-5);
  expect_close(draw_with(pipe, {{.name = "ink", .mask = at::zeros({8, 8})}}), none, 1e-5);

  // Some layers mix places, so a region changes the whole image a little. Most of the change stays in the region.
  auto left = at::zeros({64, 64});
  left.slice(1, 0, 32).fill_(1);
  auto change = (draw_with(pipe, {{.name = "ink", .mask = left}}) - none).abs().sum({0, 1, 2});
  auto half = change.size(0) / 2;
  EXPECT_GT(change.slice(0, 0, half).sum().item<double>(), 1.5 * change.slice(0, half).sum().item<double>());
  error_of(ErrorKind::usage, [&] { draw_with(pipe, {{.name = "ink", .mask = at::ones({1, 8, 8})}}); });
}

// Threads draw with adapters of their own, while another thread fuses and unfuses. Each image equals the image of the
// same call alone, with the adapters that were fused when the call began.
TEST(CallAdapters, ThreadsDoNotSeeEachOthers) {
  auto pipe = with_loras();
  auto call = [&](int i) {
    auto o = options();
    o.num_inference_steps = 2;
    o.adapters = {{.name = i % 2 ? "ink" : "neon", .weight = 0.25 * (i + 1)}};
    return draw(pipe, o);
  };
  at::set_num_threads(1);  // with more threads, the order of sums depends on the free cores
  std::vector<Tensor> serial, parallel(4);
  for (int i = 0; i < 4; ++i) serial.push_back(call(i));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      at::set_num_threads(1);
      parallel[i] = call(i);
    });
  pipe.load_lora_weights(embedded_models() / "loras" / "pixel.safetensors", {.adapter_name = "pixel"});
  pipe.set_adapters({"pixel"}, {0.5});
  pipe.set_adapters({"ink"});
  for (auto& thread : threads) thread.join();
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(parallel[i], serial[i])) << i;

  // Fusing waits for the runs that have begun, and later runs wait for it.
  std::thread fuser([&] {
    for (int i = 0; i < 4; ++i) {
      pipe.fuse_lora({.adapter_names = {"pixel"}});
      pipe.unfuse_lora();
    }
  });
  pipe.set_adapters({"pixel"});
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(at::isfinite(call(i)).all().item<bool>());
  fuser.join();
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(call(i), serial[i])) << i;
}

}  // namespace lora
