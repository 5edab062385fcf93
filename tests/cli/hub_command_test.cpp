// `lora download` and `lora cache`.
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "hub/stub.h"

namespace lora {

using nlohmann::json;
namespace fs = std::filesystem;

class HubCommand : public testing::Test {
 protected:
  void SetUp() override {
    stub_.write("owner/name", "config.json", "{}\n");
    stub_.write("owner/name", "unet/model.safetensors", "weights");
    stub_.write("owner/name", "config.json", "{\"v\": 1}\n", "v1");
  }

  HubStub stub_;
  HubHome home_{stub_.endpoint()};
};

TEST_F(HubCommand, DownloadPrintsWhereThingsAre) {
  auto whole = lora_command("download owner/name");
  ASSERT_EQ(whole.code, 0) << whole.err;
  auto folder = fs::path(whole.out.substr(0, whole.out.size() - 1));
  EXPECT_EQ(read(folder / "unet/model.safetensors"), "weights");
  EXPECT_EQ(whole.err, "");

  EXPECT_EQ(lora_command("download owner/name config.json").out, (folder / "config.json").string() + "\n");
  EXPECT_EQ(lora_command("download owner/name unet/model.safetensors config.json").out,
            (folder / "unet/model.safetensors").string() + "\n" + (folder / "config.json").string() + "\n");
  auto tag = lora_command("download owner/name config.json --revision v1 --force").out;
  EXPECT_EQ(read(tag.substr(0, tag.size() - 1)), "{\"v\": 1}\n");

  TemporaryFolder cache;
  auto some = lora_command("download owner/name --include '*.json' --include '*.bin' --exclude 'x*' --cache-dir " +
                           cache.path().string());
  ASSERT_EQ(some.code, 0) << some.err;
  auto other = fs::path(some.out.substr(0, some.out.size() - 1));
  EXPECT_TRUE(fs::exists(other / "config.json"));
  EXPECT_FALSE(fs::exists(other / "unet"));
}

TEST_F(HubCommand, DownloadSaysWhatIsWrong) {
  expect_error("download owner/name confg.json", 1, "the repository has no such file");
  expect_error("download owner/name config.json unet/modl.safetensors", 1, "did you mean \"unet/model.safetensors\"?");
  expect_error("download owner/nothing", 1, "no such repository, or it is private");
  expect_error("download owner/name --revision v2", 1, "no such revision");
  expect_error("download owner/name --include '*.bin'", 1, "the patterns match none of its 2 files");
  expect_error("download owner/name config.json --include '*.json'", 2, "Give either them or FILE, not both");
  expect_error("download a/b/c", 2, "is not a repository id");
  expect_error("download", 2, "REPO");
}

TEST_F(HubCommand, CacheListsVerifiesAndRemoves) {
  lora_command("download owner/name");
  lora_command("download owner/name --revision v1");
  auto list = lora_command("cache list");
  EXPECT_EQ(list.code, 0) << list.err;
  EXPECT_TRUE(contains(list.out, "owner/name  ")) << list.out;
  EXPECT_TRUE(contains(list.out, "v1\n")) << list.out;
  EXPECT_TRUE(contains(list.out, "1 repositories")) << list.out;
  auto report = json::parse(lora_command("cache list --json").out);
  EXPECT_EQ(report["repos"][0]["revisions"].size(), 2u);

  auto sound = lora_command("cache verify");
  EXPECT_EQ(sound.code, 0) << sound.err;
  EXPECT_TRUE(contains(sound.out, "3 files checked, 0 problems"));
  auto config = lora_command("download owner/name config.json").out;
  std::ofstream(config.substr(0, config.size() - 1)) << "[]";
  auto damaged = lora_command("cache verify owner/name --json");
  EXPECT_EQ(damaged.code, 1);
  EXPECT_EQ(json::parse(damaged.out)["problems"].size(), 1u);
  EXPECT_TRUE(contains(damaged.err, "lora download --force"));
  lora_command("download owner/name config.json --force");
  EXPECT_EQ(lora_command("cache verify").code, 0);

  EXPECT_EQ(json::parse(lora_command("cache remove owner/name --revision v1 --json").out)["freed"], 9);
  expect_error("cache remove owner/name --revision v1", 1, "the cache has no such revision");
  expect_error("cache remove owner/nam", 1, "owner/nam: no such repository in the cache ");
  expect_error("cache remove owner/nam", 1, "did you mean \"owner/name\"?");
  EXPECT_EQ(lora_command("cache remove owner/name").code, 0);
  EXPECT_TRUE(contains(lora_command("cache list").out, "0 repositories"));
  expect_error("cache list --cache-dir /no/such/folder", 1, "no such cache");
  expect_error("cache", 2, "subcommand");
}

}  // namespace lora
