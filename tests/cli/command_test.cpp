// The command as a user runs it: what it prints, what it leaves, what it exits with.
#include "cli/command.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/said.h"
#include "lora/image.h"
#include "lora/state_dict.h"
#include "lora/version.h"
#include "support/compare.h"

namespace lora {

namespace {

using nlohmann::json;

const auto kModel = (embedded_models() / "tiny").string();
std::string style(const std::string& name) { return (embedded_models() / "loras" / (name + ".safetensors")).string(); }

}  // namespace

TEST(Command, HelpListsTheVerbsAndTheVersionIsTheLibrarys) {
  auto help = lora_command("--help");
  EXPECT_EQ(help.code, 0);
  for (auto verb : {"generate", "inspect", "convert", "fuse", "forward", "download", "cache"}) {
    EXPECT_TRUE(contains(help.out, verb));
    EXPECT_EQ(lora_command(std::string(verb) + " --help").code, 0);
  }
  auto version = lora_command("--version");
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out, std::string(LORA_VERSION) + "\n");
  EXPECT_EQ(version.out, lora::version() + std::string("\n"));
  EXPECT_EQ(lora_command("").code, 2);
  EXPECT_EQ(lora_command("dance").code, 2);
}

TEST(Generate, DrawsWithAdaptersAndSaysSoInThePicture) {
  TemporaryFolder folder;
  auto out = (folder / "a.png").string();
  auto result = lora_command("generate " + kModel + " -p rocket -n blue --steps 3 --cfg 4 --seed 5 --lora " +
                             style("ink") + ":0.5 --lora " + style("neon-kohya") + " -o " + out);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, out + "\n");
  auto image = Image::load(out);
  EXPECT_EQ(image.width, 64);
  EXPECT_EQ(said(image, "prompt"), "rocket");
  EXPECT_EQ(said(image, "negative"), "blue");
  EXPECT_EQ(said(image, "seed"), "5");
  EXPECT_EQ(said(image)["version"], LORA_VERSION);
  EXPECT_TRUE(contains(said_loras(image), "ink.safetensors:0.5, "));
  EXPECT_TRUE(contains(said(image, "model"), "tiny"));
}

TEST(Generate, TagsInThePromptAreTheSameAsTheOption) {
  TemporaryFolder folder;
  auto dir = (embedded_models() / "loras").string();
  auto common = "generate " + kModel + " --steps 2 --seed 1 -o ";
  ASSERT_EQ(lora_command(common + (folder / "a.png").string() + " -p 'rocket<lora:ink:0.7>' --lora-dir " + dir).code,
            0);
  ASSERT_EQ(lora_command(common + (folder / "b.png").string() + " -p rocket --lora " + style("ink") + ":0.7").code, 0);
  EXPECT_EQ(Image::load(folder / "a.png").pixels, Image::load(folder / "b.png").pixels);
  expect_error(common + "x.png -p '<lora:inc:1> rocket' --lora-dir " + dir, 1, "did you mean \"ink\"");
  expect_error(common + "x.png -p '<lora:ink:1> rocket'", 2, "--lora-dir");
  expect_error(common + "x.png -p '<lora:ink:x> rocket' --lora-dir " + dir, 2, "is not a number");
}

TEST(Generate, CountGivesEachPictureItsOwnSeed) {
  TemporaryFolder folder;
  auto result = lora_command("generate " + kModel + " -p rocket --steps 2 --seed 5 --count 2 --json -o " +
                             (folder / "p.png").string());
  ASSERT_EQ(result.code, 0) << result.err;
  auto report = json::parse(result.out);
  ASSERT_EQ(report["images"].size(), 2u);
  EXPECT_EQ(report["images"][1]["seed"], 6);
  ASSERT_EQ(
      lora_command("generate " + kModel + " -p rocket --steps 2 --seed 6 -o " + (folder / "six.png").string()).code, 0);
  auto six = Image::load(folder / "six.png"), second = Image::load(folder / "p-2.png");
  int largest = 0;
  for (size_t i = 0; i < six.pixels.size(); ++i)
    largest = std::max(largest, std::abs(int(six.pixels[i]) - int(second.pixels[i])));
  EXPECT_LE(largest, 1) << "alone or in a batch, a seed draws the same";
}

TEST(Generate, TellsTheMemoryThatItNeeds) {
  TemporaryFolder folder;
  auto draw = [&](const std::string& more) {
    auto result = lora_command("generate " + kModel + " -p rocket --steps 1 --seed 1 --json " + more + " -o " +
                               (folder / "p.png").string());
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_TRUE(contains(result.err, "lora: memory: about ")) << result.err;
    EXPECT_TRUE(contains(result.err, "are free")) << result.err;
    return json::parse(result.out)["memory"];
  };
  const auto one = draw("--batch-size 1 --count 2"), two = draw("--batch-size 2 --count 2");
  for (const char* part : {"peak", "weights", "encoding", "denoising", "decoding", "free"}) EXPECT_GT(one[part], 0);
  EXPECT_EQ(one["peak"],
            std::max({one["encoding"].get<double>(), one["denoising"].get<double>(), one["decoding"].get<double>()}));
  EXPECT_EQ(one["weights"], two["weights"]);
  EXPECT_GT(two["denoising"], one["denoising"]);
  EXPECT_GT(draw("--dtype bfloat16")["peak"], draw("--dtype bfloat16 --low-memory")["peak"]);
}

TEST(Generate, TakesASchedulerByAnyOfItsNames) {
  TemporaryFolder folder;
  auto draw = [&](const std::string& scheduler, const std::string& more) {
    auto file = (folder / "p.png").string();
    auto result = lora_command("generate " + kModel + " -p rocket --seed 1 --scheduler '" + scheduler + "' " + more +
                               " -o " + file);
    EXPECT_EQ(result.code, 0) << result.err;
    return Image::load(file);
  };
  auto named = draw("DPM++ 2M SDE Karras", "--steps 3");
  EXPECT_EQ(said(named)["scheduler"], "DPMSolverMultistepScheduler");
  EXPECT_EQ(named.pixels, draw("dpmpp_2m_sde_karras", "--steps 3").pixels);
  EXPECT_NE(named.pixels, draw("dpmpp_2m_sde", "--steps 3").pixels);
  EXPECT_EQ(draw("Euler a", "--steps 3").pixels, draw("EulerAncestralDiscreteScheduler", "--steps 3").pixels);

  // Nine calls of the model are five of the 50 steps: the last step has one call.
  named.save(folder / "from.png");
  auto heun = draw("heun", "--strength 0.1 --image " + (folder / "from.png").string());
  EXPECT_EQ(said(heun)["steps_of_run"], 5);
  EXPECT_EQ(said(heun)["scheduler"], "HeunDiscreteScheduler");
}

TEST(Generate, FusedIsTheSamePicture) {
  TemporaryFolder folder;
  auto common =
      "generate " + kModel + " -p rocket --steps 3 --seed 1 --dtype float32 --lora " + style("pixel") + " -o ";
  ASSERT_EQ(lora_command(common + (folder / "a.png").string()).code, 0);
  ASSERT_EQ(lora_command(common + (folder / "b.png").string() + " --fuse --size 64x64").code, 0);
  auto a = Image::load(folder / "a.png"), b = Image::load(folder / "b.png");
  int largest = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i)
    largest = std::max(largest, std::abs(int(a.pixels[i]) - int(b.pixels[i])));
  EXPECT_LE(largest, 1);
}

TEST(Generate, BadInputIsToldBeforeTheWork) {
  TemporaryFolder folder;
  auto out = " -o " + (folder / "x.png").string();
  auto common = "generate " + kModel + " -p rocket --steps 2" + out;
  expect_error(common + " --lora none.safetensors", 1, "no such file");
  expect_error(common + " --lora " + kModel + "/unet/diffusion_pytorch_model.safetensors", 1, "no LoRA in this file");
  expect_error(common + " --lora " + (test_data() / "lora/refused/wrong_architecture.safetensors").string(), 1, "SDXL");
  auto half = load_state_dict(style("ink-kohya"));
  StateDict halved;
  for (const auto& [key, tensor] : half)
    if (key != "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight") halved.set(key, tensor);
  save_safetensors(halved, folder / "half.safetensors");
  expect_error(common + " --lora " + (folder / "half.safetensors").string(), 1, "half of a pair");
  expect_error(common + " --lora " + style("ink") + ":strong", 2, "the weight \"strong\" is not a number");
  expect_error(common + " --scheduler fancy", 2, "euler");
  expect_error(common + " --size 65x64", 2, "multiples of 4");
  expect_error(common + " --size big", 2, "WIDTHxHEIGHT");
  expect_error("generate " + kModel + " -p rocket --steps 0" + out, 2, "1000");
  expect_error("generate " + kModel + " -p rocket --steps 2000" + out, 2, "1000");
  expect_error("generate " + kModel + " -p rocket -o /no/such/folder/x.png", 1, "no such folder");
  expect_error("generate /no/model -p rocket" + out, 1, "/no/model");
  expect_error(common + " --dtype int8", 2,
               "--dtype int8: no such dtype. Give fp32, float32, bf16, bfloat16, fp16, float16.");
  expect_error(common + " --device toaster", 2, "cuda");
  EXPECT_FALSE(std::filesystem::exists(folder / "x.png"));
}

TEST(Fuse, WritesAModelThatDrawsTheSame) {
  TemporaryFolder folder;
  auto fused = (folder / "fused").string();
  auto result = lora_command("fuse " + kModel + " --lora " + style("blueprint") + ":0.8 -o " + fused + " --safe");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(load_state_dict(folder / "fused/unet/diffusion_pytorch_model.safetensors").begin()->second.scalar_type(),
            at::kHalf);
  ASSERT_EQ(lora_command("generate " + fused + " -p rocket --steps 3 --cfg 4 --seed 1 --dtype float32 -o " +
                         (folder / "a.png").string())
                .code,
            0);
  ASSERT_EQ(lora_command("generate " + kModel + " -p rocket --steps 3 --cfg 4 --seed 1 --dtype float32 --lora " +
                         style("blueprint") + ":0.8 -o " + (folder / "b.png").string())
                .code,
            0);
  auto a = Image::load(folder / "a.png"), b = Image::load(folder / "b.png");
  double sum = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) sum += std::abs(int(a.pixels[i]) - int(b.pixels[i]));
  EXPECT_LE(sum / double(a.pixels.size()), 1.0) << "float16 weights round";
  expect_error("fuse " + kModel + " -o " + fused, 2, "--lora");
  expect_error("fuse " + kModel + " --lora " + style("ink") + " --components vae -o " + fused, 2, "unet, text_encoder");
}

TEST(Fuse, AModelIsReplacedAsAWholeOrNotAtAll) {
  namespace fs = std::filesystem;
  TemporaryFolder folder;
  fs::copy(kModel, folder / "m", fs::copy_options::recursive);
  folder.write("m/notes.txt", "mine");
  fs::create_directory_symlink(folder / "m", folder / "link");
  auto at = [&](const char* name) { return (folder / name).string(); };
  auto weights = [&](const char* model) { return read(folder / model / "unet/diffusion_pytorch_model.safetensors"); };
  const auto base = weights("m");
  auto fuse = [&](const std::string& model, const std::string& output, const std::string& lora) {
    return "fuse " + model + " --lora " + lora + " -o " + output;
  };
  ASSERT_EQ(lora_command(fuse(at("m"), at("elsewhere"), style("ink"))).code, 0);

  // Each is told before the model is read, and changes nothing.
  fs::create_directory(folder / "home");
  folder.write("home/notes.txt", "mine");
  expect_error(fuse(at("m"), at("m/unet"), style("ink")), 2, "is inside the model");
  expect_error(fuse(at("link"), at("m/fused"), style("ink")), 2, "is inside the model");
  expect_error(fuse(at("m"), folder.path().string(), style("ink")), 2, "contains the model");
  expect_error(fuse(at("m"), at("home"), style("ink")), 1,
               "home: the folder is not empty, and has no model_index.json");
  expect_error(fuse(at("m"), "/proc/x", style("ink")), 1, "/proc/x: cannot be created");
  expect_error(fuse(at("m"), at("m"), "none.safetensors"), 1, "no such file");
  EXPECT_TRUE(weights("m") == base);
  EXPECT_EQ(folder.names().size(), 4u);

  // Over itself, through a link.
  auto result = lora_command(fuse(at("m"), at("link"), style("ink")));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_FALSE(weights("m") == base);
  EXPECT_TRUE(weights("m") == weights("elsewhere"));
  EXPECT_EQ(read(folder / "m/notes.txt"), "mine");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(folder.names().size(), 4u);
}

TEST(Fuse, SaysWhatTheRoundingLosesAndLeavesLossyLayers) {
  namespace fs = std::filesystem;
  TemporaryFolder folder;
  auto out = (folder / "m").string(), lora = style("ink") + ":0.7";
  auto inspected = lora_command("inspect " + style("ink") + " --json --model " + kModel);
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  auto fuse = json::parse(inspected.out)["fuse"];
  const auto layers = fuse["layers"].size();
  std::vector<double> losses;
  for (const auto& layer : fuse["layers"]) {
    losses.push_back(layer["lost"]);
    EXPECT_EQ(layer["dtype"], "float16");
    EXPECT_GT(layer["change"], 0);
  }
  std::sort(losses.begin(), losses.end());
  EXPECT_GT(losses.front(), 0);
  EXPECT_LT(losses.back(), 1);
  auto text = lora_command("inspect " + style("ink") + " --model " + kModel).out;
  EXPECT_TRUE(contains(text, "fused at weight 1: " + std::to_string(layers) + " layers of float16: the rounding loses"))
      << text;

  auto command = "fuse " + kModel + " --lora " + lora + " -o " + out;
  expect_error(command + " --keep-active-above 10", 2, "a share in percent is wanted");
  expect_error(command + " --keep-active-above 0%", 1, "nothing to fuse: each layer would lose more than 0%");
  EXPECT_FALSE(fs::exists(out));
  auto median = fmt::format("{:.6f}%", 100 * losses[losses.size() / 2]);
  auto result = lora_command(command + " --keep-active-above " + median);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, out + "\n");
  EXPECT_TRUE(contains(result.err, "not fused, but active: ")) << result.err;
  auto rest = out + "/unfused_loras/ink.safetensors:0.7";
  EXPECT_TRUE(contains(result.err, "add --lora '" + rest + "'")) << result.err;
  auto draw = [&](const std::string& model, const std::string& picture) {
    auto drawn = lora_command("generate " + model + " -p rocket --steps 3 --cfg 4 --seed 1 --dtype float32 -o " +
                              (folder / picture).string());
    EXPECT_EQ(drawn.code, 0) << drawn.err;
    return Image::load(folder / picture).pixels;
  };
  auto a = draw(out + " --lora " + rest, "a.png"), b = draw(kModel + " --lora " + lora, "b.png");
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::abs(int(a[i]) - int(b[i]));
  EXPECT_LE(sum / double(a.size()), 1.0) << "float16 weights round";
  EXPECT_TRUE(contains(lora_command("fuse " + kModel + " --dtype float32 --lora " + lora + " -o " + out).err,
                       "layers of float32: the rounding loses 0 %"));
  expect_error("generate " + kModel + " -p rocket --keep-active-above 10% -o " + (folder / "c.png").string(), 2,
               "--keep-active-above is for --fuse");
}

TEST(Fuse, WhatChangesNothingOrBreaksTheModelIsNotWritten) {
  TemporaryFolder folder;
  auto out = (folder / "m").string();
  auto fuse = [&](const std::string& lora) { return "fuse " + kModel + " -o " + out + " --lora " + lora; };
  StateDict large{
      {"unet.conv_in.lora_A.weight", at::full({1, 4, 3, 3}, 1000.0)},
      {"unet.conv_in.lora_B.weight",
       at::full({load_state_dict(kModel + "/unet/diffusion_pytorch_model.safetensors").at("conv_in.weight").size(0), 1,
                 1, 1},
                1000.0)}};
  save_safetensors(large, folder / "large.safetensors");
  auto file = (folder / "large.safetensors").string();
  expect_error(fuse(style("ink") + ":0"), 2, "nothing to fuse: no LoRA has a weight other than 0");
  expect_error(fuse(file + " --components text_encoder"), 2, "for a layer of text_encoder. Nothing was written.");
  expect_error(fuse(file), 1, "are NaN or infinite in float16. --dtype float32 or bfloat16 has a larger range");
  expect_error(fuse(file), 1, "unet.conv_in (");
  expect_error("generate " + kModel + " -p rocket --steps 1 --dtype float16 --fuse --lora " + file + " -o " +
                   (folder / "x.png").string(),
               1, "are NaN or infinite in float16");
  EXPECT_EQ(folder.names().size(), 1u);
  EXPECT_EQ(lora_command(fuse(file) + " --dtype float32").code, 0);

  // As run-time factors, it is the outputs that overflow.
  save_safetensors({{"sample", at::ones({1, 4, 16, 16})},
                    {"timestep", at::tensor(500)},
                    {"encoder_hidden_states", at::ones({1, 32, 128})}},
                   folder / "in.safetensors");
  auto forward = lora_command("forward " + kModel + " --component unet --dtype float16 --inputs " +
                              (folder / "in.safetensors").string() + " --lora " + file + " -o " +
                              (folder / "out.safetensors").string());
  EXPECT_EQ(forward.code, 0);
  EXPECT_TRUE(contains(forward.err, "sample: 1024 of 1024 numbers are NaN or infinite in float16")) << forward.err;
}

TEST(Forward, SaysWhatItDoesNotUse) {
  TemporaryFolder folder;
  auto tensors = load_state_dict(style("ink"));
  tensors.set("unet.nowhere.lora_A.weight", at::ones({1, 8}));
  tensors.set("unet.nowhere.lora_B.weight", at::ones({8, 1}));
  save_safetensors(tensors, folder / "more.safetensors");
  save_safetensors({{"input_ids", at::full({1, 32}, 5518, at::kLong)}}, folder / "in.safetensors");
  auto result = lora_command("forward " + kModel + " --component text_encoder --inputs " +
                             (folder / "in.safetensors").string() + " --lora " +
                             (folder / "more.safetensors").string() + " -o " + (folder / "out.safetensors").string());
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(contains(result.err, "unet.nowhere: the model has no such layer")) << result.err;
}

TEST(Forward, GivesAComponentsOutput) {
  TemporaryFolder folder;
  at::manual_seed(0);
  StateDict in{{"sample", at::randn({1, 4, 16, 16})},
               {"timestep", at::tensor(500)},
               {"encoder_hidden_states", at::randn({1, 32, 128})},
               {"input_ids", at::full({1, 32}, 5518, at::kLong)},
               {"z", at::randn({1, 4, 16, 16})}};
  save_safetensors(in, folder / "in.safetensors");
  auto common = "forward " + kModel + " --inputs " + (folder / "in.safetensors").string() + " -o " +
                (folder / "out.safetensors").string() + " --dtype float32 ";
  auto outputs = [&](const std::string& more) {
    auto result = lora_command(common + more);
    EXPECT_EQ(result.code, 0) << result.err;
    return load_state_dict(folder / "out.safetensors");
  };
  auto base = outputs("--component unet").at("sample").clone();
  EXPECT_EQ(base.sizes(), (std::vector<int64_t>{1, 4, 16, 16}));
  auto with = outputs("--component unet --lora " + style("neon")).at("sample").clone();
  EXPECT_GT(distance(with, base), 0.01);
  EXPECT_LE(distance(outputs("--component unet --fuse --lora " + style("neon")).at("sample"), with), 1e-5);
  auto text = outputs("--component text_encoder");
  for (auto name : {"last_hidden_state", "penultimate_hidden_state", "pooler_output"})
    EXPECT_TRUE(text.contains(name)) << name;
  EXPECT_EQ(outputs("--component vae").at("sample").sizes(), (std::vector<int64_t>{1, 3, 64, 64}));
  expect_error(common + "--component brain", 2, "text_encoder");
}

}  // namespace lora
