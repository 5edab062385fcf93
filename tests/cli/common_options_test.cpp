// What the verbs have in common: names of dtypes, JSON, what is told on stderr, and options of a call.
#include <nlohmann/json.hpp>
#include <regex>

#include "cli/command.h"
#include "lora/image.h"
#include "lora/pipeline.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

using nlohmann::json;

class CommonOptions : public testing::Test {
 protected:
  std::string model_ = tiny::folder("sd").string();
  TemporaryFolder folder_;
  std::string lora_ = at("style.safetensors");

  void SetUp() override {
    save_safetensors(tiny::factors(*tiny::open("sd"), "style", {"to_q", "q_proj"}, 2), lora_);
    save_safetensors({{"input_ids", at::zeros({1, 8}, at::kLong)}}, at("in.safetensors"));
  }
  std::string at(const std::string& name) const { return (folder_ / name).string(); }
  std::string draw(const std::string& more, const std::string& model = "") const {
    return "generate " + (model.empty() ? model_ : model) + " -p owl --steps 2 --size 16x16 -o " + at("out.png") + " " +
           more;
  }
  // Each verb that writes a dtype or JSON.
  std::vector<std::string> calls() const {
    return {draw("--seed 1 --lora " + lora_), "fuse " + model_ + " --lora " + lora_ + " -o " + at("fused"),
            "convert " + lora_ + " --to diffusers -o " + at("converted.safetensors"),
            "forward " + model_ + " --component text_encoder --inputs " + at("in.safetensors") + " -o " +
                at("forwarded.safetensors")};
  }
};

json parsed(const std::string& call) {
  auto result = lora_command(call);
  EXPECT_EQ(result.code, 0) << call << "\n" << result.err;
  auto value = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  EXPECT_TRUE(value.is_object()) << call << "\n" << result.out;
  return value;
}

}  // namespace

TEST_F(CommonOptions, DtypesHaveShortNames) {
  const std::pair<const char*, const char*> names[] = {{"fp32", "float32"}, {"bf16", "bfloat16"}, {"fp16", "float16"}};
  for (const auto& [given, name] : names) {
    const auto dtype = std::string(" --json --dtype ") + given;
    EXPECT_EQ(parsed(calls()[0] + dtype)["dtype"], name);
    EXPECT_EQ(parsed(calls()[1] + dtype)["dtype"], name);
    EXPECT_EQ(to_string(stored_dtype(at("fused"))), name);
    parsed(calls()[2] + dtype);
    EXPECT_EQ(to_string(load_state_dict(at("converted.safetensors")).begin()->second.scalar_type()), name);
    EXPECT_EQ(parsed(calls()[3] + dtype)["tensors"][0]["dtype"], name);
  }
  expect_error(calls()[0] + " --dtype FP16", 2,
               "--dtype FP16: no such dtype. Give fp32, float32, bf16, bfloat16, fp16");
}

TEST_F(CommonOptions, VerbsThatWriteReportInJson) {
  EXPECT_EQ(parsed(calls()[0] + " --json")["images"][0]["file"], at("out.png"));
  auto fused = parsed(calls()[1] + " --json");
  EXPECT_EQ(fused["folder"], at("fused"));
  EXPECT_EQ(fused["adapters"][0]["adapter_name"], "style");
  EXPECT_FALSE(fused["fuse"]["layers"].empty());
  auto converted = parsed(calls()[2] + " --json");
  EXPECT_EQ(converted["files"], json({at("converted.safetensors")}));
  EXPECT_GT(converted["layers"], 0);
  auto forwarded = parsed(calls()[3] + " --json");
  EXPECT_EQ(forwarded["file"], at("forwarded.safetensors"));
  EXPECT_EQ(forwarded["tensors"][0]["shape"][1], 8);
  // An error is text on stderr, as without --json.
  for (const auto& call : calls()) {
    auto wrong = lora_command(call + " --json --dtype half");
    EXPECT_EQ(wrong.code, 2);
    EXPECT_EQ(wrong.out, "");
    EXPECT_TRUE(wrong.err.starts_with("lora: --dtype half")) << wrong.err;
  }
}

TEST_F(CommonOptions, VerboseTellsEachStepWithItsTime) {
  auto told = lora_command(draw("-v --seed 7 --count 2 --dtype fp32 --lora " + lora_));
  ASSERT_EQ(told.code, 0) << told.err;
  std::vector<std::string> wanted{"sd opened: StableDiffusionPipeline, float32 on cpu",
                                  "loaded as style: ",
                                  "drawing 1 of 1: 2 pictures",
                                  "seeds 7 to 8",
                                  " steps done",
                                  "out-1.png saved",
                                  "out-2.png saved"};
  size_t at = 0;
  for (const auto& part : wanted) {
    const auto next = told.err.find(part, at);
    EXPECT_NE(next, std::string::npos) << part << "\n" << told.err;
    if (next != std::string::npos) at = next;
  }
  EXPECT_TRUE(std::regex_search(told.err, std::regex("lora: [0-9]+\\.[0-9]{2} s: "))) << told.err;
  for (const auto& call : calls()) EXPECT_TRUE(contains(lora_command(call + " --verbose").err, " s: ")) << call;
  EXPECT_FALSE(contains(lora_command(calls()[0]).err, " s: "));
}

TEST_F(CommonOptions, ARandomSeedIsTold) {
  auto told = lora_command(draw(""));
  std::smatch seed;
  ASSERT_TRUE(std::regex_search(told.err, seed, std::regex("seed ([0-9]+)\n"))) << told.err;
  EXPECT_EQ(told.out, at("out.png") + "\n");
  auto pixels = Image::load(at("out.png")).pixels;
  auto again = lora_command(draw("--seed " + seed[1].str()));
  EXPECT_FALSE(contains(again.err, "seed ")) << again.err;
  EXPECT_EQ(Image::load(at("out.png")).pixels, pixels);
}

TEST_F(CommonOptions, ColoursAreForTerminals) {
  auto on_terminal = [&](const std::string& environment) {
    const auto command = environment + " " + LORA_COMMAND + " inspect none.safetensors";
    EXPECT_NE(std::system(("script -qec '" + command + "' /dev/null </dev/null >" + at("terminal")).c_str()), -1);
    return read(folder_ / "terminal");
  };
  EXPECT_TRUE(contains(on_terminal("NO_COLOR= TERM=xterm"), "\x1b[1;31mlora:\x1b[0m none.safetensors"));
  EXPECT_FALSE(contains(on_terminal("NO_COLOR=1 TERM=xterm"), "\x1b"));
  EXPECT_FALSE(contains(on_terminal("NO_COLOR= TERM=dumb"), "\x1b"));
  EXPECT_FALSE(contains(lora_command("inspect none.safetensors").err, "\x1b"));
}

TEST_F(CommonOptions, EtaAndGuidanceRescaleAreRefusedWhereNothingUsesThem) {
  const auto sd3 = tiny::folder("sd3").string(), xl = tiny::folder("sdxl").string(),
             amused = tiny::folder("amused-256").string();
  expect_error(draw("--scheduler euler --eta 0.5"), 2, "--eta is 0.5, but EulerDiscreteScheduler does not use it");
  expect_error(draw("--eta 0.5", sd3), 2, "does not take --eta");
  expect_error(draw("--eta 0.5", amused), 2, "does not take --eta");
  expect_error(draw("--guidance-rescale 0.5", sd3), 2, "does not take --guidance-rescale");
  expect_error(draw("--guidance-rescale 0.5", amused), 2, "does not take --guidance-rescale");
  for (const char* number : {"-0.1", "1.1"})
    for (const char* option : {"--eta", "--guidance-rescale"})
      expect_error(draw(std::string(option) + "=" + number), 2, option);
  EXPECT_FALSE(std::filesystem::exists(at("out.png")));
  EXPECT_EQ(lora_command(draw("--scheduler tcd --eta 0.5", xl)).code, 0);
  auto unguided = lora_command(draw("--seed 1 --cfg 1 --guidance-rescale 0.5"));
  EXPECT_TRUE(contains(unguided.err, "--guidance-rescale has no effect, because the call has no guidance"))
      << unguided.err;
}

}  // namespace lora
