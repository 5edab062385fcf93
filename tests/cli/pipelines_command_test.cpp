// The command on every kind of model, and what a LoRA's weight can say beside a number.
#include "cli/command.h"
#include "cli/said.h"
#include "lora/image.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

const auto kModel = (embedded_models() / "tiny").string();
const auto kInk = (embedded_models() / "loras" / "ink.safetensors").string();

std::vector<uint8_t> pixels(const std::filesystem::path& file) { return Image::load(file).pixels; }

// Draws on the embedded model; what was drawn lies in out.png, or out-1.png and so on.
void draw(const TemporaryFolder& folder, const std::string& arguments) {
  auto result = lora_command("generate " + kModel + " -p rocket --steps 3 --cfg 4 --seed 5 -o " +
                             (folder / "out.png").string() + " " + arguments);
  ASSERT_EQ(result.code, 0) << result.err;
}

std::string lora_with(const std::string& weight) { return "--lora '" + kInk + ":" + weight + "'"; }

}  // namespace

TEST(LoraWeight, SchedulesMasksAndPictures) {
  TemporaryFolder folder;
  auto drawn = [&](const std::string& arguments, const char* file = "out.png") {
    draw(folder, arguments);
    return pixels(folder / file);
  };
  auto base = drawn(""), ink = drawn(lora_with("0.8"));
  EXPECT_NE(ink, base);
  EXPECT_EQ(drawn(lora_with(R"({"weight": 0.8})")), ink);
  EXPECT_EQ(drawn(lora_with(R"({"weight": 0.8, "schedule": {"0": 1}})")), ink);
  EXPECT_EQ(drawn(lora_with(R"({"schedule": {"0": 0}})")), base);
  auto half = drawn(lora_with(R"({"unet": 0.8, "text_encoder": 0.8, "schedule": {"0": 1, "0.5": 0}})"));
  EXPECT_NE(half, base);
  EXPECT_NE(half, ink);

  Image mask{8, 8, std::vector<uint8_t>(8 * 8 * 3, 255), {}};
  mask.save(folder / "white.png");
  std::fill(mask.pixels.begin(), mask.pixels.end(), 0);
  mask.save(folder / "black.png");
  EXPECT_EQ(drawn(lora_with(R"({"mask": ")" + (folder / "black.png").string() + "\"}")), base);
  EXPECT_NE(drawn(lora_with(R"({"weight": 0.8, "mask": ")" + (folder / "white.png").string() + "\"}")), base);

  drawn("--count 2 " + lora_with(R"({"weight": 0.8, "images": [2]})"), "out-1.png");
  auto first = pixels(folder / "out-1.png"), second = pixels(folder / "out-2.png");
  drawn("--count 2", "out-1.png");
  EXPECT_EQ(first, pixels(folder / "out-1.png"));
  EXPECT_NE(second, pixels(folder / "out-2.png"));
}

TEST(LoraWeight, MistakesAreNamed) {
  auto call = "generate " + kModel + " -p rocket --steps 1 ";
  expect_error(call + lora_with(R"({"schedule": {"half": 1}})"), 2, "a fraction of the run");
  expect_error(call + lora_with(R"({"schedule": 1})"), 2, "\"schedule\" must be an object");
  expect_error(call + lora_with(R"({"images": [0]})"), 2, "count from 1");
  expect_error(call + lora_with(R"({"images": [3]})"), 2, "\"images\" has 3, but --count is 1");
  expect_error(call + lora_with(R"({"weight": 1, "unet": 0.5})"), 2, "for all components");
  expect_error(call + "--fuse " + lora_with(R"({"schedule": {"0": 1}})"), 2, "a weight alone");
  expect_error(call + lora_with(R"({"mask": "nowhere.png"})"), 1, "nowhere.png");
}

TEST(Generate, StartsFromAPictureAndDrawsAPartAnew) {
  TemporaryFolder folder;
  draw(folder, "");
  auto base = folder / "base.png";
  std::filesystem::copy(folder / "out.png", base);
  draw(folder, "--image " + base.string() + " --strength 0.7");
  EXPECT_NE(pixels(folder / "out.png"), pixels(base));
  Image mask{64, 64, std::vector<uint8_t>(64 * 64 * 3, 0), {}};
  mask.save(folder / "black.png");
  draw(folder, "--image " + base.string() + " --mask " + (folder / "black.png").string());
  EXPECT_EQ(pixels(folder / "out.png"), pixels(base));
  // Nothing is drawn anew: what the VAE makes of the picture.
  draw(folder, "--image " + base.string() + " --no-keep-unmasked --mask " + (folder / "black.png").string());
  auto kept = pixels(folder / "out.png"), was = pixels(base);
  double difference = 0;
  for (size_t i = 0; i < kept.size(); ++i) difference += std::abs(int(kept[i]) - int(was[i]));
  EXPECT_LT(difference / double(kept.size()), 16);

  auto call = "generate " + kModel + " -p rocket --steps 2 ";
  expect_error(call + "--mask " + base.string(), 2, "--mask needs --image");
  expect_error(call + "--image " + base.string() + " --strength 1.5", 2, "--strength is 1.5");
  expect_error(call + "--prompt-2 owl", 2, "StableDiffusionPipeline does not take --prompt-2");
}

TEST(Generate, DrawsAMaskedPartAtFullSize) {
  TemporaryFolder folder;
  auto large = tiny::picture("large", {96, 128});
  large.save(folder / "large.png");
  Image mask{128, 96, std::vector<uint8_t>(96 * 128 * 3, 0), {}};
  for (int y = 40; y < 60; ++y)
    for (int x = 50; x < 70; ++x)
      for (int c = 0; c < 3; ++c) mask.pixels[size_t((y * 128 + x) * 3 + c)] = 255;
  mask.save(folder / "mask.png");
  auto files = "--image " + (folder / "large.png").string() + " --mask " + (folder / "mask.png").string();
  auto changed = [&] {
    auto image = Image::load(folder / "out.png");
    EXPECT_EQ(std::pair(image.width, image.height), std::pair(128, 96));
    int left = 128, top = 96, right = 0, bottom = 0;
    for (int y = 0; y < image.height; ++y)
      for (int x = 0; x < image.width; ++x)
        for (int c = 0; c < 3; ++c)
          if (auto i = size_t((y * 128 + x) * 3 + c); image.pixels[i] != large.pixels[i])
            left = std::min(left, x), top = std::min(top, y), right = std::max(right, x), bottom = std::max(bottom, y);
    return std::array{left, top, right, bottom};
  };
  draw(folder, files + " --only-masked 8 --mask-blur 0");
  EXPECT_EQ(changed(), (std::array{50, 40, 69, 59}));
  draw(folder, files + " --only-masked 8");
  for (int side : {0, 1}) {
    auto [left, top, right, bottom] = changed();
    EXPECT_GE((std::array{left, top}[size_t(side)]), (std::array{50, 40}[size_t(side)]) - 12);
    EXPECT_LE((std::array{right, bottom}[size_t(side)]), (std::array{69, 59}[size_t(side)]) + 12);
    EXPECT_LT((std::array{left, top}[size_t(side)]), (std::array{50, 40}[size_t(side)]));
  }
  draw(folder, files + " --mask-invert --mask-blur 0");
  auto inverted = Image::load(folder / "out.png");
  for (int y = 40; y < 60; ++y)
    EXPECT_TRUE(std::equal(&large.pixels[size_t((y * 128 + 50) * 3)], &large.pixels[size_t((y * 128 + 70) * 3)],
                           &inverted.pixels[size_t((y * 128 + 50) * 3)]));

  auto call = "generate " + kModel + " -p rocket --steps 2 ";
  expect_error(call + files + " --only-masked 8 --no-keep-unmasked", 2, "Leave --no-keep-unmasked out");
  expect_error(call + files + " --only-masked -1", 2, "--only-masked is -1");
  expect_error(call + files + " --mask-blur 30", 2, "--mask-blur is 30, which leaves no white part of --mask");
  expect_error(call + "--only-masked 8", 2, "--only-masked needs --mask");
  expect_error(call + "--mask-invert", 2, "--mask-invert needs --mask");
  expect_error(call + "--mask-blur 3", 2, "--mask-blur needs --mask");
  expect_error(call + "--no-keep-unmasked", 2, "--no-keep-unmasked needs --mask");
}

TEST(Generate, DrawsWithAnotherVae) {
  namespace fs = std::filesystem;
  TemporaryFolder folder;
  const auto own = tiny::folder("sd") / "vae", other = folder / "vae";
  fs::copy(own, other, fs::copy_options::recursive);
  StateDict tensors;
  for (const auto& [name, t] : load_state_dict(own / "diffusion_pytorch_model.safetensors"))
    tensors.set(name, reference::weight("other." + name, t.sizes()));
  save_safetensors(tensors, other / "diffusion_pytorch_model.safetensors");
  auto drawn = [&](const std::string& model, const std::string& more) {
    auto result = lora_command("generate " + model + " -p owl --steps 1 --seed 1 --dtype float32 -o " +
                               (folder / "out.png").string() + " " + more);
    EXPECT_EQ(result.code, 0) << result.err;
    return pixels(folder / "out.png");
  };
  const auto model = tiny::folder("sd").string();
  const auto with_it = drawn(model, "--vae " + other.string());
  EXPECT_EQ(said(Image::load(folder / "out.png"), "vae"), other.string());
  EXPECT_NE(with_it, drawn(model, ""));
  EXPECT_EQ(with_it, drawn(model, "--vae " + (other / "diffusion_pytorch_model.safetensors").string()));
  // It is in a model that is written.
  save_safetensors(tiny::factors(*tiny::open("sd"), "ink", {"to_v"}, 2), folder / "ink.safetensors");
  const auto ink = " --lora " + (folder / "ink.safetensors").string();
  auto fused = lora_command("fuse " + model + ink + " --vae " + other.string() + " -o " + (folder / "fused").string());
  ASSERT_EQ(fused.code, 0) << fused.err;
  EXPECT_EQ(drawn((folder / "fused").string(), ""), drawn(model, "--fuse --vae " + other.string() + ink));

  const auto call = " -p owl --steps 1 -o " + (folder / "out.png").string();
  fs::copy(tiny::folder("sd"), folder / "without", fs::copy_options::recursive);
  fs::remove_all(folder / "without" / "vae");
  expect_error("generate " + (folder / "without").string() + call, 1, "Give one as --vae");
  EXPECT_EQ(drawn((folder / "without").string(), "--vae " + other.string()), with_it);
  expect_error("generate " + tiny::folder("sd3").string() + call + " --vae " + other.string(), 1, "another family");
  expect_error("generate " + tiny::folder("amused-256").string() + call + " --vae " + other.string(), 2, "--vae is ");
  expect_error("generate " + model + call + " --vae nowhere", 1, "nowhere: there is no such folder or file of a VAE");
}

TEST(Generate, TakesEveryKindOfModel) {
  for (const auto& name : tiny::names()) {
    if (name == "sd-inpaint") continue;  // which draws nothing without a picture
    SCOPED_TRACE(name);
    TemporaryFolder folder;
    auto model = tiny::folder(name).string();
    auto pipe = tiny::open(name);
    save_safetensors(tiny::factors(*pipe, "one", {"to_q", "query", "q_proj"}, 2), folder / "one.safetensors");
    auto lora = " --lora " + (folder / "one.safetensors").string();
    auto out = (folder / "out.png").string();
    auto result = lora_command("generate " + model + " -p owl --steps 2 --json -o " + out + lora);
    ASSERT_EQ(result.code, 0) << result.err;
    auto report = nlohmann::json::parse(result.out);
    EXPECT_EQ(report["pipeline"], pipe->class_name());
    EXPECT_EQ(report["adapters"][0]["components"].size(), pipe->models().size() - (name == "sd35"));
    EXPECT_GT(Image::load(out).width, 0);

    EXPECT_EQ(lora_command("inspect " + (folder / "one.safetensors").string() + " --model " + model).code, 0);
    auto fused = lora_command("fuse " + model + lora + " -o " + (folder / "fused").string());
    ASSERT_EQ(fused.code, 0) << fused.err;
    EXPECT_EQ(lora_command("generate " + (folder / "fused").string() + " -p owl --steps 1 -o " + out).code, 0);
  }
}

TEST(Generate, ARefinerEndsTheRun) {
  TemporaryFolder folder;
  auto out = folder / "out.png";
  auto call = "generate " + tiny::folder("sdxl").string() + " -p owl --steps 4 --seed 1 -o " + out.string();
  ASSERT_EQ(lora_command(call).code, 0);
  auto alone = pixels(out);
  auto result = lora_command(call + " --refiner " + tiny::folder("sdxl-refiner").string() + " --refiner-start 0.5");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(pixels(out), alone);

  // The base's LoRA does not fit the refiner.
  auto base = tiny::open("sdxl");
  save_safetensors(tiny::factors(*base, "one", {"attn2.to_k"}, 2), folder / "one.safetensors");
  result = lora_command(call + " --refiner " + tiny::folder("sdxl-refiner").string() + " --lora " +
                        (folder / "one.safetensors").string());
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.err, "one.safetensors does not fit the refiner, which draws without it")) << result.err;

  expect_error(call + " --refiner " + tiny::folder("sd").string(), 2, "is a StableDiffusionPipeline");
  expect_error("generate " + tiny::folder("sd3").string() + " -p owl -o " + out.string() + " --refiner " +
                   tiny::folder("sdxl-refiner").string(),
               2, "--refiner: MODEL is a StableDiffusion3Pipeline");
  for (const char* start : {"0", "1", "1.5", "-0.3", "nan"})
    expect_error(call + " --refiner " + tiny::folder("sdxl-refiner").string() + " --refiner-start " + start, 2,
                 "--refiner-start");
}

TEST(Generate, SaysWhatTheFilesHaveAndNaN) {
  TemporaryFolder folder;
  auto model = folder / "sd";
  std::filesystem::copy(tiny::folder("sd"), model, std::filesystem::copy_options::recursive);
  auto call = "generate " + model.string() + " -p owl --steps 1 -o " + (folder / "out.png").string();
  auto unet = model / "unet" / "diffusion_pytorch_model.safetensors";
  StateDict tensors;
  for (const auto& [name, t] : load_state_dict(unet)) tensors.set(name, t.clone());
  tensors.set("train_step_counter", at::ones({1}));
  save_safetensors(tensors, model / "unet" / "diffusion_pytorch_model.fp16.safetensors");
  auto result = lora_command(call + " --variant fp16");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.err, "note: ") && contains(result.err, "train_step_counter")) << result.err;
  EXPECT_TRUE(contains(result.err, "no weights of variant \"fp16\" in text_encoder, vae")) << result.err;

  save_safetensors(tiny::factors(*tiny::open("sd"), "ink", {"to_v"}, 2), folder / "ink.safetensors");
  std::filesystem::remove(folder / "out.png");
  expect_error(call + " --lora " + (folder / "ink.safetensors").string() + ":1e38", 1, "NaN or infinite numbers");
  EXPECT_FALSE(std::filesystem::exists(folder / "out.png"));

  tiny::write(model / "scheduler" / "scheduler_config.json", {{"_class_name", "KDPM2DiscreteScheduler"}});
  expect_error(call, 1, "--scheduler");
  EXPECT_EQ(lora_command(call + " --scheduler euler").code, 0);
}

TEST(Forward, RunsAnyComponent) {
  TemporaryFolder folder;
  save_safetensors({{"input_ids", at::tensor(std::vector<int64_t>{5517, 7, 9, 5518}).unsqueeze(0)}},
                   folder / "in.safetensors");
  for (const char* component : {"text_encoder", "text_encoder_2"}) {
    auto result = lora_command("forward " + tiny::folder("sdxl").string() + " --component " + component + " --inputs " +
                               (folder / "in.safetensors").string() + " -o " + (folder / "out.safetensors").string());
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(load_state_dict(folder / "out.safetensors").contains("text_embeds"),
              component == std::string("text_encoder_2"));
  }
  expect_error("forward " + tiny::folder("sd3").string() + " --component unet --inputs " +
                   (folder / "in.safetensors").string() + " -o " + (folder / "out.safetensors").string(),
               2, "transformer, text_encoder, text_encoder_2, vae");
}

}  // namespace lora
