// The command on LoRA files alone: what they are, how alike they are, and in another spelling.
#include <nlohmann/json.hpp>

#include "cli/command.h"
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
  EXPECT_TRUE(contains(text.substr(0, text.find('\n')), ": fine")) << text;
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

TEST(Convert, ApproximatesWhereAsked) {
  TemporaryFolder folder;
  at::manual_seed(0);
  save_safetensors({{"unet.mid_block.attentions.0.proj_in.diff", at::randn({12, 8})}}, folder / "a.safetensors");
  auto common =
      "convert " + (folder / "a.safetensors").string() + " --to diffusers -o " + (folder / "b.safetensors").string();
  expect_error(common, 1, "--approximate --rank N");
  auto result = lora_command(common + " --approximate --rank 8");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "1 of 1 layers approximated: relative error ")) << result.out;
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
  expect_error("convert " + style("ink") + " --to diffusers -o " + folder.path().string(), 1, "is a folder");
  EXPECT_TRUE(folder.names().empty());
}

}  // namespace lora
