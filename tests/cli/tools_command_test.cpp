// The command on LoRA files alone: what they are, how alike they are, and in another spelling.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "lora/files.h"
#include "lora/state_dict.h"

namespace lora {

namespace {

using nlohmann::json;

const auto kModel = (embedded_models() / "tiny").string();
std::string style(const std::string& name) { return (embedded_models() / "loras" / (name + ".safetensors")).string(); }
std::string data(const std::string& name) { return (test_data() / "lora/files" / (name + ".safetensors")).string(); }

}  // namespace

TEST(Inspect, SaysWhatAFileIs) {
  auto text = lora_command("inspect " + style("ink-kohya")).out;
  EXPECT_TRUE(text.starts_with("LoRA for ")) << text;
  // The embedded model is none of the published ones, so that there is nothing to compare the file with.
  EXPECT_TRUE(contains(text.substr(0, text.find('\n')), ": no problem in itself, but no model's layers are known"))
      << text;
  for (auto part : {"kohya", "rank 8, alpha 8", "unet: ", "float16", "SHA-256", "AutoV3"})
    EXPECT_TRUE(contains(text, part)) << text;
  EXPECT_TRUE(lora_command("inspect " + data("peft_dora")).out.starts_with("DoRA for "));
  EXPECT_TRUE(lora_command("inspect " + data("peft_bias")).out.starts_with("LoRA with biases for "));
  auto report = json::parse(lora_command("inspect --json " + style("neon") + " --model " + kModel).out);
  EXPECT_EQ(report["dialect"], "diffusers");
  EXPECT_EQ(report["problems"], 0);
  EXPECT_EQ(report["components"]["unet"]["ranks"][0]["rank"], 16);
  EXPECT_TRUE(report["match"]["unmatched"].empty());
  EXPECT_EQ(report["match"]["components"]["unet"].size(),
            report["components"]["unet"]["linear_layers"].get<size_t>() +
                report["components"]["unet"]["conv_layers"].get<size_t>());
  expect_error("inspect " + kModel + "/vae/diffusion_pytorch_model.safetensors", 1, "VAE");
  expect_error("inspect nowhere.safetensors", 1, "nowhere.safetensors");
}

// The report is whole whatever the model thinks of the file.
TEST(Inspect, AMisfitWithTheModelIsAProblemOfTheReport) {
  TemporaryFolder folder;
  auto file = load_state_dict(style("ink"));
  auto down = std::find_if(file.begin(), file.end(), [](auto& item) { return item.first.ends_with("lora_A.weight"); });
  file.set(down->first, at::ones({down->second.size(0), 7}));
  save_safetensors(file, folder / "misfit.safetensors");
  auto arguments = "inspect " + (folder / "misfit.safetensors").string() + " --model " + kModel;
  auto result = lora_command(arguments);
  EXPECT_EQ(result.code, 1);
  for (auto part : {"1 problem", "problem: on ", "the adapter is for a layer 7 → ", "SHA-256", "rank 8"})
    EXPECT_TRUE(contains(result.out, part)) << part << ":\n" << result.out;
  EXPECT_TRUE(contains(result.err, "misfit.safetensors")) << result.err;
  auto report = json::parse(lora_command(arguments + " --json").out);
  EXPECT_EQ(report["problems"], 1);
  EXPECT_TRUE(report["match"].contains("error"));
}

TEST(AllowPartial, IsForEachVerbThatTakesALora) {
  TemporaryFolder folder;
  auto file = load_state_dict(style("ink"));
  auto first = file.begin()->first;
  file.set(first.substr(0, first.find(".lora")) + ".gate", at::ones({1}));
  auto partial = (folder / "partial.safetensors").string(), out = (folder / "out").string();
  save_safetensors(file, partial);
  for (const auto& arguments : {"convert " + partial + " --base sd1 --to kohya -o " + out + ".safetensors",
                                "inspect " + partial + " " + style("ink"), "inspect " + partial + " --model " + kModel,
                                "fuse " + kModel + " --lora " + partial + " -o " + out,
                                "generate " + kModel + " -p cat --steps 1 --lora " + partial + " -o " + out + ".png"}) {
    expect_error(arguments, 1, ".gate");
    auto result = lora_command(arguments + " --allow-partial");
    EXPECT_EQ(result.code, 0) << arguments << "\n" << result.err;
    EXPECT_TRUE(contains(result.out + result.err, "the effect is not whole")) << arguments << "\n" << result.err;
  }
}

TEST(Inspect, ComparesTwo) {
  auto text = lora_command("inspect " + style("ink") + " " + style("ink-kohya")).out;
  EXPECT_TRUE(contains(text, "layers in common: cosine 1.000000 together")) << text;
  auto report = json::parse(lora_command("inspect --json " + style("ink") + " " + style("neon")).out);
  EXPECT_LT(report["cosine"], 0.5);
  EXPECT_FALSE(report["layers"].empty());
  expect_error("inspect " + style("ink") + " " + style("neon") + " --model " + kModel, 2, "--model");
  expect_error("inspect " + style("ink") + " nowhere.safetensors", 1, "nowhere.safetensors");
}

TEST(Convert, WritesAFileOfTheSameEffect) {
  TemporaryFolder folder;
  auto out = (folder / "a.safetensors").string();
  auto result = lora_command("convert " + style("ink-kohya") + " --to diffusers -o " + out);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, out + "\n");
  EXPECT_EQ(load_state_dict(out).begin()->second.scalar_type(), at::kHalf);
  EXPECT_TRUE(contains(lora_command("inspect " + style("ink-kohya") + " " + out).out,
                       "cosine 1.000000 together (1.000000 to 1.000000 by layer), norm ratio 1.000000; 0 only in the "
                       "first, 0 only in the second"));
  ASSERT_EQ(lora_command("convert " + out + " --to diffusers --dtype bfloat16 -o " + out).code, 0) << "in place";
  EXPECT_EQ(load_state_dict(out).begin()->second.scalar_type(), at::kBFloat16);
  auto peft = (folder / "peft").string();
  result = lora_command("convert " + out + " --to peft -o " + peft);
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, peft + "/unet/adapter_config.json\n")) << result.out;
}

namespace {

// A layer of SD 1.5's UNet, of rank 4 and alpha 2.
StateDict sd15_file() {
  at::manual_seed(7);
  std::string key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.";
  return {{key + "lora_down.weight", at::randn({4, 768}) * 0.1},
          {key + "lora_up.weight", at::randn({1280, 4}) * 0.1},
          {key + "alpha", at::scalar_tensor(2.0)}};
}

}  // namespace

// Every format with every dtype, with and without an approximation: the same change, or a refusal by name.
TEST(Convert, CrossesItsOptions) {
  TemporaryFolder folder;
  auto source = (folder / "source.safetensors").string();
  save_safetensors(sd15_file(), source);
  struct Case {
    const char *to, *dtype;
    bool approximate;
    double tolerance;
  };
  for (auto [to, dtype, approximate, tolerance] : {Case{"kohya", "", false, 0},
                                                   {"kohya", "float16", false, 1e-3},
                                                   {"kohya", "bfloat16", true, 0},
                                                   {"comfy", "bfloat16", false, 1e-2},
                                                   {"comfy", "float32", true, 0},
                                                   {"diffusers", "float32", true, 0},
                                                   {"diffusers", "float16", false, 1e-3},
                                                   {"peft", "bfloat16", true, 1e-2},
                                                   {"peft", "", false, 0}}) {
    bool dotted = std::string(to) == "diffusers" || std::string(to) == "peft";
    auto out = (folder / (to + std::string(std::string(to) == "peft" ? "" : ".safetensors"))).string();
    auto command =
        fmt::format("convert {} --to {} -o {}{}{}", source, to, out, *dtype ? fmt::format(" --dtype {}", dtype) : "",
                    approximate ? " --approximate --rank 2" : "");
    auto result = lora_command(command);
    if (approximate && !dotted) {
      EXPECT_EQ(result.code, 2) << command;
      EXPECT_TRUE(contains(result.err, "leave out the approximation")) << result.err;
      EXPECT_FALSE(std::filesystem::exists(out));
      continue;
    }
    ASSERT_EQ(result.code, 0) << command << "\n" << result.err;
    EXPECT_EQ(contains(result.err, "lora: note: no layer had to be approximated"), approximate) << result.err;
    EXPECT_FALSE(contains(result.out, "note:")) << result.out;
    auto same = compare_loras(source, out);
    EXPECT_TRUE(same.only_in_a.empty() && same.only_in_b.empty()) << same.text();
    EXPECT_NEAR(same.cosine, 1, tolerance + 1e-6) << command;
    EXPECT_NEAR(same.ratio, 1, tolerance + 1e-6) << command;
    std::filesystem::remove_all(out);
  }
}

TEST(Inspect, CrossesItsOptions) {
  TemporaryFolder folder;
  auto misfit = (folder / "misfit.safetensors").string(), file = style("ink");
  save_safetensors(sd15_file(), misfit);
  for (bool as_json : {false, true})
    for (bool with_model : {false, true})
      for (bool with_other : {false, true})
        for (const auto& given : {file, misfit}) {
          auto command = fmt::format("inspect {}{}{}{}", given, with_other ? " " + file : "", as_json ? " --json" : "",
                                     with_model ? " --model " + kModel : "");
          SCOPED_TRACE(command);
          auto [code, out, err] = lora_command(command);
          if (with_model && with_other) {
            EXPECT_EQ(code, 2);
            EXPECT_TRUE(contains(err, "--model works for one file only")) << err;
            EXPECT_EQ(out, "");
            continue;
          }
          // A file that does not fit the model is an error, but what the file is stands there.
          bool fails = with_model && given == misfit;
          EXPECT_EQ(code, fails ? 1 : 0) << err;
          EXPECT_EQ(contains(err, "cannot be loaded into"), fails) << err;
          if (as_json) {
            auto report = json::parse(out);
            EXPECT_EQ(report.contains(with_other ? "cosine" : "verdict"), true);
            EXPECT_EQ(report.contains("match"), with_model);
            if (with_model) {
              EXPECT_EQ(report["match"].contains("error"), fails);
            }
          } else {
            EXPECT_TRUE(contains(out, with_other ? " in common" : "LoRA for ")) << out;
            EXPECT_EQ(contains(out, "not matched: 0 keys"), with_model && !fails) << out;
          }
        }
}

TEST(Inspect, CountsEveryTensorAndNamesOneByItsSingular) {
  TemporaryFolder folder;
  auto file = sd15_file();
  file.set("what.is_this", at::zeros({3}, at::kHalf));
  save_safetensors(file, folder / "a.safetensors");
  auto text = lora_command("inspect " + (folder / "a.safetensors").string()).out;
  EXPECT_TRUE(contains(text, "4 tensors: 1 float16, 3 float32")) << text;
  EXPECT_TRUE(contains(text, "1 key is not understood, and no part of an adapter")) << text;
  EXPECT_TRUE(contains(text, "rank 4, alpha 2: 1 layer\n")) << text;
}

TEST(Convert, TheBaseModelCanBeGiven) {
  TemporaryFolder folder;
  auto in = (folder / "a.safetensors").string(), out = (folder / "b.safetensors").string();
  std::string layer = "unet.mid_block.attentions.0.proj_in.";
  save_safetensors({{layer + "lora_A.weight", at::ones({2, 1280})}, {layer + "lora_B.weight", at::ones({1280, 2})}},
                   in);
  expect_error("convert " + in + " --to kohya -o " + out, 1, "--base NAME");
  for (auto [base, wanted] : {std::pair("sd1", "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"),
                              {"sdxl", "lora_unet_middle_block_1_proj_in.lora_down.weight"}}) {
    auto result = lora_command("convert " + in + " --to kohya -o " + out + " --base " + base);
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_TRUE(load_state_dict(out).contains(wanted)) << base;
  }
  expect_error("convert " + in + " --to kohya -o " + out + " --base flux", 2, "Flux was given");
  auto report = json::parse(lora_command("inspect --json --base sdxl " + in).out);
  EXPECT_EQ(report["architecture"], "SDXL");
  EXPECT_EQ(report["known_by"], "it was given");
}

TEST(Convert, ApproximatesWhereAsked) {
  TemporaryFolder folder;
  at::manual_seed(0);
  save_safetensors({{"unet.mid_block.attentions.0.proj_in.diff", at::randn({12, 8})}}, folder / "a.safetensors");
  auto common =
      "convert " + (folder / "a.safetensors").string() + " --to diffusers -o " + (folder / "b.safetensors").string();
  expect_error(common, 1, "--approximate --rank N");
  auto result = lora_command(common + " --approximate --rank 8");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "1 of 1 layer approximated: relative error ")) << result.out;
}

TEST(Convert, BadInputIsTold) {
  TemporaryFolder folder;
  auto common = "convert " + style("ink") + " -o " + (folder / "a.safetensors").string();
  expect_error(common, 2, "--to");
  expect_error(common + " --to ggml", 2, "kohya");
  expect_error(common + " --to diffusers --rank 4", 2, "--approximate");
  expect_error(common + " --to diffusers --approximate", 2, "--rank");
  expect_error(common + " --to diffusers --approximate --rank 0", 2, "--rank");
  TemporaryFolder other;
  save_safetensors({{"unet.mid_block.attentions.0.proj_in.diff", at::zeros({12, 8})}}, other / "one.safetensors");
  expect_error("convert " + (other / "one.safetensors").string() + " --to comfy -o " + (folder / "a").string(), 1,
               "which this file does not tell");
  expect_error("convert nowhere.safetensors --to peft -o x", 1, "nowhere.safetensors");
  expect_error(common + " --to diffusers --base sd9", 2, "there are: amused, flux, sd3, sdxl");
  expect_error("inspect " + style("ink") + " --base sd9", 2, "\"sd9\" is no base model");
  expect_error("convert " + style("ink") + " --to diffusers -o " + folder.path().string(), 1, "is a folder");
  EXPECT_TRUE(folder.names().empty());
}

// The report of convert is for scripts. What the library notes is for people, in the words of the command.
TEST(Convert, NotesGoToStderr) {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder / "two");
  for (auto name : {"a", "b"}) save_safetensors(sd15_file(), folder / "two" / (name + std::string(".safetensors")));
  auto two = (folder / "two").string(), out = (folder / "c.safetensors").string();
  auto result = lora_command("convert " + two + " --to kohya -o " + out);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, out + "\n");
  EXPECT_TRUE(contains(result.err, "lora: note: " + two)) << result.err;
  EXPECT_TRUE(contains(result.err, "name a file itself to choose another of: a.safetensors, b.safetensors"))
      << result.err;
  for (auto form : {"", " --json"}) {
    auto inspected = lora_command("inspect " + two + form);
    EXPECT_TRUE(contains(inspected.out, "name a file itself to choose another of")) << inspected.out;
    EXPECT_FALSE(contains(inspected.out, "weight_name")) << inspected.out;
  }
}

namespace {

// A LoRA on one layer of the embedded model's UNet, whose factors are full of two numbers.
void save_full(const std::filesystem::path& file, double down, double up) {
  const auto weights = load_state_dict(kModel + "/unet/diffusion_pytorch_model.safetensors");
  const auto shape = weights.at("conv_in.weight").sizes();
  save_safetensors({{"unet.conv_in.lora_A.weight", at::full({1, shape[1], shape[2], shape[3]}, down)},
                    {"unet.conv_in.lora_B.weight", at::full({shape[0], 1, 1, 1}, up)}},
                   file);
}

}  // namespace

TEST(Fuse, AChangeOfWhichNothingIsLeftIsAnError) {
  TemporaryFolder folder;
  auto out = (folder / "m").string();
  auto fuse = [&](const std::string& name) {
    return "fuse " + kModel + " -o " + out + " --lora " + (folder / (name + ".safetensors")).string();
  };
  save_full(folder / "zero.safetensors", 1, 0);
  save_full(folder / "tiny.safetensors", 1e-12, 1e-13);
  save_full(folder / "small.safetensors", 1e-3, 1e-5);
  save_full(folder / "plus.safetensors", 0.1, 0.1);
  auto zero = lora_command(fuse("zero"));
  EXPECT_EQ(zero.code, 1);
  EXPECT_TRUE(contains(zero.err, "1 layer of float16: the change of the weights is 0\n")) << zero.err;
  EXPECT_TRUE(contains(zero.err,
                       "nothing to fuse: the change of each layer is 0. Either the factors are 0, or the LoRAs "
                       "cancel each other. Nothing was written."))
      << zero.err;
  expect_error(fuse("plus") + ":1 --lora " + (folder / "plus.safetensors").string() + ":-1", 1, "cancel each other");
  // Also float32 keeps nothing of it.
  for (auto dtype : {"float32", "bfloat16"}) {
    auto tiny = lora_command(fuse("tiny") + " --dtype " + dtype);
    EXPECT_EQ(tiny.code, 1) << dtype;
    for (auto part : {fmt::format("1 layer of {}: the rounding loses 100 % of the change (rms change / weight ", dtype),
                      std::string("e-2"), std::string("most in: unet.conv_in (100 %)"),
                      fmt::format("nothing to fuse: each layer loses its whole change to the rounding in {}. A larger "
                                  "weight of the LoRA makes a larger change. Nothing was written.",
                                  dtype)})
      EXPECT_TRUE(contains(tiny.err, part)) << part << "\n" << tiny.err;
    expect_error(fuse("tiny") + " --keep-active-above 10% --dtype " + dtype, 1,
                 "nothing to fuse: each layer would lose more than 10% of its change in ");
  }
  EXPECT_FALSE(std::filesystem::exists(out));
  // float32 keeps a part of what bfloat16 loses.
  expect_error(fuse("small") + " --dtype bfloat16", 1, "each layer loses its whole change to the rounding in bfloat16");
  EXPECT_EQ(lora_command(fuse("small") + " --dtype float32").code, 0);
}

TEST(Fuse, AnOverflowIsToldWithoutAShare) {
  TemporaryFolder folder;
  save_full(folder / "large.safetensors", 1000, 1000);
  auto result = lora_command("fuse " + kModel + " -o " + (folder / "m").string() + " --lora " +
                             (folder / "large.safetensors").string());
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(contains(result.err,
                       "1 layer of float16: the result has NaN or infinity\n  NaN or infinite: 1 layer: "
                       "unet.conv_in ("))
      << result.err;
  for (auto part : {"nan", "%"}) EXPECT_FALSE(contains(result.err, part)) << result.err;
}

}  // namespace lora
