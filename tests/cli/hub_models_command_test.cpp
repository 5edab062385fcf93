// The command on models and LoRAs that are repositories on the Hub.
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "hub/stub.h"
#include "lora/lora.h"

namespace lora {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

class HubModels : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    stub_ = new HubStub;
    add("owner/tiny", embedded_models() / "tiny");
    for (const char* name : {"styles/ink.safetensors", "styles/neon.safetensors"})
      add("owner/sd-v1.5-styles", embedded_models() / "loras" / fs::path(name).filename(), name);
    add("other/ink", embedded_models() / "loras" / "ink.safetensors", "ink.safetensors");
  }
  static void TearDownTestSuite() {
    delete stub_;
    stub_ = nullptr;
  }
  static void add(const std::string& repo_id, const fs::path& from, const std::string& name = "") {
    auto to = name.empty() ? stub_->folder(repo_id) : stub_->folder(repo_id) / name;
    fs::create_directories(to.parent_path());
    fs::copy(from, to, fs::copy_options::recursive);
  }
  static HubStub& stub() { return *stub_; }

  // Draws; the names of the adapters.
  std::vector<std::string> drawn(const std::string& arguments) {
    auto result =
        lora_command("generate -p rocket --steps 1 --seed 5 --json -o " + picture_.string() + " " + arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    std::vector<std::string> names;
    auto report = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
    if (report.is_object())
      for (const auto& adapter : report["adapters"]) names.push_back(adapter["adapter_name"]);
    return names;
  }
  std::vector<uint8_t> pixels() const { return Image::load(picture_).pixels; }

  HubHome home_{stub().endpoint()};
  TemporaryFolder folder_;
  fs::path picture_ = folder_ / "out.png";

 private:
  static inline HubStub* stub_ = nullptr;
};

using Names = std::vector<std::string>;

}  // namespace

TEST_F(HubModels, RepositoriesAreDrawnWithAsFilesAre) {
  auto ink = (embedded_models() / "loras" / "ink.safetensors").string();
  EXPECT_EQ(drawn((embedded_models() / "tiny").string() + " --lora " + ink + ":0.7"), Names{"ink"});
  auto wanted = pixels();
  EXPECT_EQ(drawn("owner/tiny --lora other/ink:0.7"), Names{"ink"});
  EXPECT_EQ(pixels(), wanted);
  EXPECT_EQ(drawn("owner/tiny --lora owner/sd-v1.5-styles/styles/ink.safetensors:0.7"), Names{"ink"});
  EXPECT_EQ(pixels(), wanted);
}

TEST_F(HubModels, AdaptersAreNamedAfterRepositoriesOrFilesAndNumbered) {
  stub().write("owner/sd-v1.5-ink", "README.md", "a style");
  add("owner/sd-v1.5-ink", embedded_models() / "loras" / "ink.safetensors", "pytorch_lora_weights.safetensors");
  EXPECT_EQ(drawn("owner/tiny --lora owner/sd-v1.5-ink --lora other/ink --lora "
                  "owner/sd-v1.5-styles/styles/ink.safetensors --lora other/ink:0.5"),
            (Names{"sd-v1.5-ink", "ink", "ink-2", "ink-3"}));
}

TEST_F(HubModels, FusingInspectingAndConverting) {
  auto fused = (folder_ / "fused").string(), file = (folder_ / "kohya.safetensors").string();
  ASSERT_EQ(lora_command("fuse owner/tiny --lora other/ink -o " + fused).code, 0);
  EXPECT_EQ(stored_dtype(fused), at::kHalf);
  auto report = json::parse(lora_command("inspect other/ink --model owner/tiny --json").out);
  EXPECT_TRUE(report["match"]["unmatched"].empty());
  EXPECT_TRUE(contains(report["file"], "other/ink@")) << report["file"];
  report = json::parse(lora_command("inspect owner/sd-v1.5-styles/styles/ink.safetensors other/ink --json").out);
  EXPECT_NEAR(report["cosine"].get<double>(), 1, 1e-6);
  EXPECT_EQ(lora_command("convert other/ink --base sd1 --to kohya -o " + file).code, 0);
  EXPECT_TRUE(fs::exists(file));
}

TEST_F(HubModels, RevisionsAndAnotherCache) {
  add("other/styles", embedded_models() / "loras" / "neon.safetensors", "sub/style.safetensors");
  fs::create_directories(stub().folder("other/styles", "v1") / "sub");
  fs::copy(embedded_models() / "loras" / "ink.safetensors",
           stub().folder("other/styles", "v1") / "sub/style.safetensors");
  fs::copy(stub().folder("owner/tiny"), stub().folder("owner/tiny", "v1"), fs::copy_options::recursive);
  const auto tiny = (embedded_models() / "tiny").string();
  drawn(tiny + " --lora " + (embedded_models() / "loras/ink.safetensors").string() + ":0.7");
  const auto ink = pixels();
  const auto cache = (folder_ / "cache").string();
  EXPECT_EQ(
      drawn("owner/tiny --revision v1 --cache-dir " + cache + " --lora other/styles@v1/sub/style.safetensors:0.7"),
      Names{"style"});
  EXPECT_EQ(pixels(), ink);
  EXPECT_TRUE(fs::exists(folder_ / "cache/models--owner--tiny/refs/v1"));
  EXPECT_TRUE(fs::exists(folder_ / "cache/models--other--styles/refs/v1"));
  EXPECT_EQ(drawn(tiny + " --cache-dir " + cache + " --lora other/styles/sub/style.safetensors:0.7"), Names{"style"});
  EXPECT_NE(pixels(), ink);
  // Nothing of a cache is for a file, so nothing is noted.
  auto local =
      lora_command("inspect --cache-dir " + cache + " " + (embedded_models() / "loras/ink.safetensors").string());
  EXPECT_EQ(local.code, 0);
  EXPECT_EQ(local.err, "");

  const auto fused = (folder_ / "fused").string(), file = (folder_ / "x.safetensors").string();
  EXPECT_EQ(lora_command("fuse owner/tiny --revision v1 --lora other/ink@main -o " + fused).code, 0);
  auto report = json::parse(lora_command("inspect other/ink@main --model owner/tiny --revision v1 --json").out);
  EXPECT_TRUE(report["match"]["unmatched"].empty());
  EXPECT_EQ(lora_command("convert other/ink@main --base sd1 --to kohya --cache-dir " + cache + " -o " + file).code, 0);
  EXPECT_EQ(json::parse(lora_command("download other/ink ink.safetensors --json").out)["repo_id"], "other/ink");

  const auto out = " -p rocket -o " + picture_.string();
  expect_error("generate owner/tiny --revision v9" + out, 1, "no such revision");
  expect_error("generate owner/tiny --lora other/ink@v9" + out, 1, "no such revision");
  expect_error("generate owner/tiny --lora other/ink@" + out, 2, "the form is owner/name@REVISION");
  expect_error("generate " + tiny + " --revision v1" + out, 2, "is not a repository on the Hub");
  expect_error("inspect other/ink --revision v1", 2, "--revision is that of --model. For FILE, give owner/name@v1");
}

TEST_F(HubModels, WhatIsMissingIsSaid) {
  auto out = " -p rocket -o " + picture_.string();
  expect_error("generate owner/none" + out, 1, "owner/none: there is no such file or folder here");
  expect_error("generate owner/tiny --lora owner/sd-v1.5-styles" + out, 1, "styles/ink.safetensors");
  expect_error("generate owner/tiny --lora other/ink/inc.safetensors" + out, 1, "did you mean \"ink.safetensors\"?");
  stub().reset();
  expect_error("inspect loras/inc.safetensors", 1, "a repository on the Hub is \"owner/name\"");
  EXPECT_TRUE(stub().requests().empty());
}

}  // namespace lora
