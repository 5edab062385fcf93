// `lora list`, and tags that name a LoRA by its metadata.
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "lora/state_dict.h"

namespace lora {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const auto kLoras = (embedded_models() / "loras").string();
const auto kModel = (embedded_models() / "tiny").string();

// The user's folder of caches is one of the test's own.
class List : public testing::Test {
 protected:
  List() { ::setenv("XDG_CACHE_HOME", (caches_ / "home").c_str(), 1); }
  ~List() override { ::unsetenv("XDG_CACHE_HOME"); }

  fs::path cache() const { return caches_ / "home/lora.cpp/loras.cbor"; }
  TemporaryFolder caches_, folder_;
};

size_t lines(const std::string& text) { return size_t(std::count(text.begin(), text.end(), '\n')); }

}  // namespace

TEST_F(List, PrintsATableAndKeepsACache) {
  auto first = lora_command("list " + kLoras);
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(first.err, "");
  EXPECT_EQ(lines(first.out), 9u) << first.out;
  EXPECT_TRUE(first.out.starts_with("name  ")) << first.out;
  EXPECT_TRUE(contains(first.out, "\nblueprint ")) << first.out;
  EXPECT_TRUE(fs::exists(cache()));
  auto second = lora_command("list " + kLoras);
  EXPECT_EQ(second.out, first.out);
  fs::remove(cache());
  EXPECT_EQ(lora_command("list --no-cache " + kLoras).out, first.out);
  EXPECT_FALSE(fs::exists(cache()));
}

TEST_F(List, JsonAndTheTableAgree) {
  for (std::string sort : {"name", "base", "rank", "date", "size"})
    for (std::string hash : {"", " --hash"}) {
      auto arguments = "list " + kLoras + " --sort " + sort + hash;
      auto table = lora_command(arguments).out;
      auto rows = json::parse(lora_command(arguments + " --json").out);
      ASSERT_EQ(rows.size(), 8u);
      size_t at = 0;
      for (const auto& row : rows) {
        auto next = table.find("\n" + row["name"].get<std::string>() + " ", at);
        ASSERT_NE(next, table.npos) << row["name"] << "\n" << table;
        at = next;
        auto digits = row["hash"].get<std::string>();
        EXPECT_EQ(digits.size(), hash.empty() && row["hash_from"] == "" ? 0u : 64u);
        EXPECT_TRUE(contains(table, digits.substr(0, 12)));
        EXPECT_TRUE(fs::exists(row["path"].get<std::string>()));
      }
    }
}

TEST_F(List, FiltersByTheBaseModel) {
  fs::copy(test_data() / "dialects/kohya", folder_ / "a", fs::copy_options::recursive);
  fs::copy(test_data() / "dialects/kohya_xl", folder_ / "b", fs::copy_options::recursive);
  auto bases = [&](const std::string& options) {
    std::set<std::string> found;
    for (const auto& row : json::parse(lora_command("list " + folder_.path().string() + " --json" + options).out))
      found.insert(row["base"]);
    return found;
  };
  auto all = bases("");
  for (const auto& base : all) {
    if (base.empty()) continue;
    EXPECT_EQ(bases(" --base " + base), std::set{base});
    EXPECT_EQ(bases(" --base " + base + " --base wan"), std::set{base});
  }
  EXPECT_TRUE(bases(" --base wan").empty());
  expect_error("list " + kLoras + " --base sd9", 2, "sd9");
}

TEST_F(List, StrangeFilesAndNames) {
  folder_.write("broken.safetensors", "x");
  folder_.write("\xff\n\x1b[31m.safetensors", "");
  auto result = lora_command("list " + folder_.path().string());
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(lines(result.out), 3u) << result.out;
  EXPECT_TRUE(contains(result.out, "\\xff\\n\\x1b[31m ")) << result.out;
  EXPECT_TRUE(contains(result.out, "cannot be read: is empty")) << result.out;
  EXPECT_EQ(json::parse(lora_command("list --json " + folder_.path().string()).out).size(), 2u);
}

TEST_F(List, FoldersThatAreEmptyOrMissing) {
  auto empty = lora_command("list " + folder_.path().string());
  EXPECT_EQ(empty.code, 0);
  EXPECT_EQ(lines(empty.out), 1u);
  EXPECT_EQ(lora_command("list --json " + folder_.path().string()).out, "[]\n");
  expect_error("list " + (folder_ / "none").string(), 1, "no such folder");
  expect_error("list " + kLoras + "/ink.safetensors", 1, "is a file; wanted a folder");
  expect_error("list", 2, "DIR");
  expect_error("list " + kLoras + " --sort colour", 2, "colour");
}

TEST_F(List, ACacheThatCannotBeWrittenIsNoted) {
  caches_.write("home", "a file where a folder is wanted");
  auto result = lora_command("list " + kLoras);
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(lines(result.out), 9u);
  EXPECT_TRUE(contains(result.err, "lora: note: the cache cannot be written")) << result.err;
  EXPECT_EQ(lora_command("list --no-cache " + kLoras).err, "");
}

TEST_F(List, ATagNamesALoraByItsMetadata) {
  auto file = load_state_dict(kLoras + "/ink.safetensors");
  file.metadata["ss_output_name"] = "inky";
  save_safetensors(file, folder_ / "x.safetensors");
  auto draw = [&](const std::string& tag, const std::string& out) {
    return lora_command("generate " + kModel + " --size 64x64 --steps 1 --seed 1 -p 'red apple " + tag +
                        "' --lora-dir " + folder_.path().string() + " -o " + (folder_ / out).string());
  };
  auto by_title = draw("<lora:inky:0.5>", "a.png"), by_file = draw("<lora:x:0.5>", "b.png");
  EXPECT_EQ(by_title.code, 0) << by_title.err;
  EXPECT_EQ(by_file.code, 0) << by_file.err;
  EXPECT_EQ(read(folder_ / "a.png").size(), read(folder_ / "b.png").size());
  save_safetensors(file, folder_ / "y.safetensors");
  auto both = draw("<lora:inky>", "c.png");
  EXPECT_EQ(both.code, 2);
  EXPECT_TRUE(contains(both.err, "x.safetensors, y.safetensors")) << both.err;
  EXPECT_EQ(draw("<lora:inkyy>", "c.png").code, 1);
}

}  // namespace lora
