// One run in two calls, as with a refiner, and one batch as single calls.
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

// White in the right half.
Image right_half(int size) {
  Image mask{size, size, std::vector<uint8_t>(size_t(size * size * 3)), {}};
  for (int y = 0; y < size; ++y)
    for (int x = size / 2; x < size; ++x)
      for (int c = 0; c < 3; ++c) mask.pixels[size_t((y * size + x) * 3 + c)] = 255;
  return mask;
}

CallOptions options(int steps = 6) {
  return {.height = 16, .width = 16, .num_inference_steps = steps, .guidance_scale = 3, .seed = {4}};
}

CallOptions from_image(double strength, bool masked) {
  auto o = options(8);
  o.image = {tiny::picture("part", {16, 16})};
  o.strength = strength;
  if (masked) o.mask_image = {right_half(16)};
  return o;
}

// The run up to a fraction, and from there by another pipeline.
Tensor in_two_calls(const DiffusionPipeline& base, const DiffusionPipeline& refiner, CallOptions o, double at) {
  auto end = o;
  o.denoising_end = end.denoising_start = at;
  end.latents = base.generate_latents("owl", o);
  if (o.mask_image.empty()) end.image = {};
  return refiner.generate_latents("owl", end);
}

}  // namespace

TEST(RunInTwoCalls, IsTheRunInOne) {
  auto pipe = tiny::open("sdxl");
  pipe->load_lora_weights(tiny::factors(*pipe, "ink", {"to_q", "q_proj"}, 2), {.adapter_name = "ink"});
  auto scheduled = options();
  scheduled.adapters = {{.name = "ink", .schedule = LoraSchedule::by_fraction({{0, 1}, {0.34, 0}})}};
  auto scheduled_from_image = from_image(0.8, false);
  scheduled_from_image.adapters = scheduled.adapters;
  auto batch = from_image(1, true);
  batch.num_images_per_prompt = 2;
  batch.seed = {4, 5};
  const std::pair<const char*, CallOptions> rows[] = {{"from text", options()},
                                                      {"from an image", from_image(0.8, false)},
                                                      {"inpainting", from_image(0.8, true)},
                                                      {"inpainting all steps", from_image(1, true)},
                                                      {"a batch", batch},
                                                      {"a schedule", scheduled},
                                                      {"a schedule and an image", scheduled_from_image}};
  const auto own = pipe->scheduler;
  // Heun's method makes two calls of the model in each step. A run is cut between steps.
  for (const auto& scheduler : {own, std::shared_ptr<const Scheduler>(Scheduler::from_config(own->config(), "heun"))}) {
    pipe->scheduler = scheduler;
    for (const auto& [name, o] : rows)
      for (double at : {0.5, 0.7}) {
        SCOPED_TRACE(testing::Message() << scheduler->class_name() << ": " << name << " at " << at);
        auto whole = pipe->generate_latents("owl", o);
        EXPECT_LE(distance(in_two_calls(*pipe, *pipe, o, at), whole), 1e-4);
      }
  }
}

TEST(RunOfSecondOrder, TakesTwoTimestepsAStep) {
  auto pipe = tiny::open("sd");
  pipe->load_lora_weights(tiny::factors(*pipe, "ink", {"to_q"}, 2), {.adapter_name = "ink"});
  for (const char* name : {"heun", "dpmpp_sde"}) {
    SCOPED_TRACE(name);
    auto scheduler = Scheduler::from_config(pipe->scheduler->config(), name);
    scheduler->set_timesteps(6);
    pipe->scheduler = std::move(scheduler);
    auto timesteps = pipe->scheduler->timesteps();
    auto timesteps_of = [&](CallOptions o) {
      std::vector<Tensor> seen;
      o.callback_on_step_end = [&](const StepEnd& end) {
        EXPECT_EQ(end.step, int(seen.size()));
        seen.push_back(end.timestep);
        return true;
      };
      pipe->generate_latents("owl", o);
      return at::stack(seen);
    };
    EXPECT_TRUE(at::equal(timesteps_of(options(6)), timesteps));
    auto half = options(6);
    half.image = {tiny::picture("part", {16, 16})};
    half.strength = 0.5;
    EXPECT_TRUE(at::equal(timesteps_of(half), timesteps.slice(0, 6)));

    // Schedules of adapters count steps, not calls of the model.
    std::vector<std::pair<int, int>> counted;
    half.adapters = {{.name = "ink", .schedule = [&](int step, int steps) {
                        counted.emplace_back(step, steps);
                        return 1.0;
                      }}};
    pipe->generate_latents("owl", half);
    EXPECT_EQ(counted, (std::vector<std::pair<int, int>>{{0, 3}, {0, 3}, {1, 3}, {1, 3}, {2, 3}}));
  }
}

TEST(RunInTwoCalls, ARefinerKeepsWhatTheMaskKeepsAndWhatTheBaseDrew) {
  auto base = tiny::open("sdxl"), refiner = tiny::open("sdxl-refiner");
  auto o = from_image(0.8, true);
  auto whole = base->generate_latents("owl", o), refined = in_two_calls(*base, *refiner, o, 0.5);
  auto left = [](const Tensor& t) { return t.slice(3, 0, t.size(3) / 2); };
  EXPECT_LE(distance(left(refined), left(whole)), 1e-5);  // what the VAE makes of the image
  EXPECT_GT(distance(refined, whole), 1e-2);

  // What the base drew matters.
  auto other = from_image(0.8, false), same = other;
  base->load_lora_weights(tiny::factors(*base, "ink", {"to_q"}, 2), {.adapter_name = "ink"});
  other.adapters = std::vector<CallAdapter>{};
  auto with = in_two_calls(*base, *tiny::open("sdxl-refiner"), same, 0.5);
  same.adapters = std::vector<CallAdapter>{};
  EXPECT_GT(distance(in_two_calls(*base, *refiner, same, 0.5), with), 1e-3);
}

TEST(RunInTwoCalls, FractionsOutsideTheRunAreNamed) {
  auto pipe = tiny::open("sdxl");
  for (double x : {0.0, 1.0, 1.5, -0.3})
    for (const char* name : {"denoising_start", "denoising_end"}) {
      auto o = options();
      (name == std::string("denoising_end") ? o.denoising_end : o.denoising_start) = x;
      o.latents = at::zeros({1, 4, 8, 8});
      auto message = error_of(ErrorKind::usage, [&] { pipe->generate_latents("owl", o); });
      EXPECT_NE(message.find(name + std::string(" is ")), std::string::npos) << message;
    }
  auto both = from_image(0.5, false);
  both.latents = at::zeros({1, 4, 8, 8});
  both.denoising_start = 0.7;
  auto message = error_of(ErrorKind::usage, [&] { pipe->generate_latents("owl", both); });
  EXPECT_NE(message.find("Leave the image out, or give a mask_image"), std::string::npos) << message;
  both.image = {};
  both.strength = 0.2;  // starts at 0.8
  message = error_of(ErrorKind::usage, [&] { pipe->generate_latents("owl", both); });
  EXPECT_NE(message.find("denoising_start is 0.7, but with the strength 0.2 the run starts later"), std::string::npos)
      << message;
}

// ---- Batches --------------------------------------------------------------------------------------------------------

// Every image of a batch with a seed for each is what the seed draws alone.
TEST(Batch, ASeedForEachImageDrawsWhatItDrawsAlone) {
  struct Row {
    const char *pipeline, *scheduler;
    bool image, mask;
    double strength = 0.7;
  };
  for (const auto& row : std::vector<Row>{{"sd", "euler_ancestral", false, false},
                                          {"sd", "euler_ancestral", true, false},
                                          {"sd", "euler_ancestral", true, true},
                                          {"sd", "lcm", true, true, 1},
                                          {"sd-inpaint", "pndm", true, true},
                                          {"sd-inpaint", "euler_ancestral", true, true, 1},
                                          {"sdxl", "dpmpp_2m", true, true},
                                          {"sd3", "", true, true},
                                          {"amused-256", "", false, false}}) {
    SCOPED_TRACE(testing::Message() << row.pipeline << " " << row.scheduler << row.image << row.mask);
    auto pipe = DiffusionPipeline::from_pretrained(tiny::folder(row.pipeline),
                                                   {.dtype = at::kFloat, .scheduler = row.scheduler});
    auto o = options(4);
    if (row.image) o.image = {tiny::picture("batch", {16, 16})}, o.strength = row.strength;
    if (row.mask) o.mask_image = {right_half(16)};
    o.num_images_per_prompt = 3;
    o.seed = {7, 8, 9};
    auto all = pipe->generate_latents("owl", o);
    for (int64_t i = 0; i < 3; ++i) {
      auto alone = o;
      alone.num_images_per_prompt = 1;
      alone.seed = {7 + uint64_t(i)};
      auto wanted = pipe->generate_latents("owl", alone);
      if (wanted.is_floating_point())
        EXPECT_LE(distance(all.narrow(0, i, 1), wanted), 1e-4) << i;
      else
        EXPECT_TRUE(at::equal(all.narrow(0, i, 1), wanted)) << i;
    }
  }
}

}  // namespace lora
