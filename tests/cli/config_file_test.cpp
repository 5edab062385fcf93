// Defaults of options from a file: lora.toml.
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/said.h"
#include "lora/image.h"

namespace lora {

namespace {

namespace fs = std::filesystem;

const std::string kModel = (embedded_models() / "tiny").string();
const std::string kInk = (embedded_models() / "loras/ink.safetensors").string();

}  // namespace

class ConfigFile : public testing::Test {
 protected:
  // Runs `lora` in the folder, with the user's configs in "configs".
  Result run(const std::string& arguments) const {
    TemporaryFolder out;
    auto line = "cd " + folder_.path().string() + " && XDG_CONFIG_HOME=" + (folder_ / "configs").string() + " " +
                LORA_COMMAND + " " + arguments + " >" + (out / "out").string() + " 2>" + (out / "err").string();
    int status = std::system(line.c_str());
    return {WEXITSTATUS(status), read(out / "out"), read(out / "err")};
  }
  Image drawn(const std::string& arguments) const {
    auto result = run("generate " + arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.code ? Image{} : Image::load(folder_ / "out.png");
  }
  void expect_refused(const std::string& config, const std::string& part) {
    folder_.write("lora.toml", config);
    auto result = run("generate " + kModel + " -p owl --steps 1");
    EXPECT_EQ(result.code, 2) << config << "\n" << result.err;
    EXPECT_TRUE(contains(result.err, part)) << config << "\nwanted: " << part << "\n" << result.err;
    EXPECT_FALSE(fs::exists(folder_ / "out.png"));
  }

  TemporaryFolder folder_;
};

TEST_F(ConfigFile, GivesDefaultsThatTheLineReplaces) {
  folder_.write("lora.toml", "[generate]\nmodel = \"" + kModel +
                                 "\"\nprompt = \"a #1 owl, red\"\nsteps = 2\nseed = 5\n" +
                                 "cfg = 2.5\ndtype = 'fp32'\nlora = ['" + kInk + ":0.5']\nfuse = true\n" +
                                 "[fuse]\nsafe = true\nthreads = 1\n[cache.list]\njson = true\n");
  folder_.write("empty.toml", "");
  auto whole = drawn("");
  EXPECT_EQ(said(whole, "prompt"), "a #1 owl, red");
  EXPECT_EQ(said(whole, "steps"), "2");
  EXPECT_EQ(said(whole, "cfg"), "2.5");
  EXPECT_EQ(said_loras(whole), kInk + ":0.5");
  EXPECT_EQ(whole.pixels, drawn(kModel +
                                " -p 'a #1 owl, red' --steps 2 --seed 5 --cfg 2.5 --config empty.toml --dtype "
                                "float32 --fuse --lora " +
                                kInk + ":0.5")
                              .pixels);
  auto other = drawn("--steps 1 -p cat --lora " + kInk + ":0.2");
  EXPECT_EQ(said(other, "steps"), "1");
  EXPECT_EQ(said(other, "prompt"), "cat");
  EXPECT_EQ(said_loras(other), kInk + ":0.2");
  auto verbose = run("generate --steps 1 -v");
  EXPECT_TRUE(contains(verbose.err,
                       "these options are from lora.toml: --cfg (line 6), --dtype (line 7), --fuse (line 9), "
                       "--lora (line 8), MODEL (line 2), --prompt (line 3), --seed (line 5)\n"))
      << verbose.err;
  // A wrong call says where options are from.
  auto wrong = run("generate --prompts none.txt");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_TRUE(contains(wrong.err, "--prompt and --prompts are both given")) << wrong.err;
  EXPECT_TRUE(contains(wrong.err, "these options are from lora.toml: ")) << wrong.err;
}

TEST_F(ConfigFile, TheFirstFileThatExistsCounts) {
  fs::create_directories(folder_ / "configs/lora.cpp");
  folder_.write("configs/lora.cpp/lora.toml", "[list]\nsort = 'rank'\n");
  auto read_file = [&](const std::string& arguments) {
    auto result = run("list -v " + arguments + " " + (embedded_models() / "loras").string());
    EXPECT_EQ(result.code, 0) << result.err;
    return result.err;
  };
  EXPECT_TRUE(contains(read_file(""), "configs/lora.cpp/lora.toml: --sort (line 2)")) << read_file("");
  folder_.write("lora.toml", "[list]\nhash = true\n");
  EXPECT_TRUE(contains(read_file(""), "from lora.toml: --hash (line 2)"));
  folder_.write("third.toml", "");
  EXPECT_TRUE(contains(read_file("--config third.toml"), "third.toml: nothing for this call"));
  auto first = run("--config third.toml list -v .");
  EXPECT_TRUE(contains(first.err, "third.toml: nothing for this call")) << first.err;
}

TEST_F(ConfigFile, ThatOfConfigCanBeAPipe) {
  auto piped = run("--version >out; printf '[list]\\nhash = true\\n' | " + std::string(LORA_COMMAND) +
                   " list -v --config /dev/stdin .");
  EXPECT_EQ(piped.code, 0) << piped.err;
  EXPECT_TRUE(contains(piped.err, "from /dev/stdin: --hash (line 2)")) << piped.err;
  for (const std::string line : {"list --config none.toml .", "--config none.toml list ."}) {
    auto none = run(line);
    EXPECT_EQ(none.code, 1);
    EXPECT_EQ(none.err, "lora: --config: none.toml: no such file\n");
  }
  auto folder = run("list --config . .");
  EXPECT_EQ(folder.code, 1);
  EXPECT_TRUE(contains(folder.err, "--config: .: is a folder")) << folder.err;
}

TEST_F(ConfigFile, WhatTakesNoDefaultsDoesNotReadTheDefaultFile) {
  folder_.write("lora.toml", "[broken");
  for (const std::string line : {"--version", "--help", "list --help", "cache list --help", "man", "completions bash"})
    EXPECT_EQ(run(line).code, 0) << line;
  EXPECT_EQ(run("list .").code, 2);
  EXPECT_EQ(run("man --config lora.toml").code, 2);
}

TEST_F(ConfigFile, SectionsOfOtherVerbsAreCheckedAndChangeNothing) {
  auto expect_wrong = [&](const std::string& config, const std::string& part) {
    folder_.write("lora.toml", config);
    auto result = run("list -v --sort name .");
    EXPECT_EQ(result.code, 2) << config;
    EXPECT_TRUE(contains(result.err, part)) << config << "\n" << result.err;
  };
  expect_wrong("[grid]\nsteps = 'x'\n", "lora.toml:2: ");
  expect_wrong("[generate]\nvae-tiling = 'odd'\n", "lora.toml:2: --vae-tiling: odd not in");
  expect_wrong("[generate]\neta = 2\n", "lora.toml:2: --eta");
  expect_wrong("[list]\nsort = 'odd'\n", "lora.toml:2: --sort: odd not in");  // although the line replaces it
  expect_wrong("[man]\nverbose = true\n", "lora.toml:1: `lora man` takes nothing from a file");
  folder_.write("lora.toml", "[cache.remove]\nREPO = 'a/b'\n[generate]\nverbose = true\nthreads = 3\n");
  fs::create_directory(folder_ / "hub");
  auto listed = run("cache verify --cache-dir hub");
  EXPECT_EQ(listed.code, 0) << listed.err;
  EXPECT_FALSE(contains(listed.err, "lora.toml")) << listed.err;
}

TEST_F(ConfigFile, WordsThatAreNotExpectedKeepTheirOrder) {
  auto result = run("info a.png --foo b");
  EXPECT_EQ(result.code, 2);
  EXPECT_FALSE(contains(result.err, "b --foo")) << result.err;
  auto two = run("list . b --foo c");
  EXPECT_TRUE(contains(two.err, "The following arguments were not expected: b --foo c")) << two.err;
}

TEST_F(ConfigFile, WhatIsNotUnderstoodIsRefused) {
  expect_refused("[generate]\nstep = 2\n", "lora.toml:2: `lora generate` has no option \"step\"");
  expect_refused("[generate]\np = 'x'\n", "has no option \"p\"");
  expect_refused("[generate]\nhelp = true\n", "has no option \"help\"");
  expect_refused("[generate]\nconfig = 'x'\n", "has no option \"config\"");
  expect_refused("\n[generte]\nsteps = 2\n", "lora.toml:2: [generte] is not the section of a verb");
  expect_refused("[cache.lits]\njson = true\n", "[cache.lits] is not the section of a verb");
  expect_refused("[generate.more]\njson = true\n", "`lora generate` has no part \"more\"");
  expect_refused("[fuse]\nstep = 2\n", "`lora fuse` has no option \"step\"");
  expect_refused("steps = 2\n", "lora.toml:1: \"steps\" stands outside the section of a verb");
  expect_refused("[generate]\nsteps = \n", "lora.toml:2: ");
  expect_refused("[generate]\nsteps = 1\nsteps = 2\n", "lora.toml:3: ");
  expect_refused("[generate]\nkeep-unmasked = true\nno-keep-unmasked = true\n", "is the second key for");
  expect_refused("[generate]\ncfg = ''\n", "lora.toml:2: --cfg: the value is empty");
  expect_refused("[generate]\ncfg = 'much'\n", "lora.toml:2: ");
  expect_refused("[generate]\ncfg = true\n", "\"cfg\" must be a text or a number");
  expect_refused("[generate]\ncfg = [1, 2]\n", "\"cfg\" takes one value, not a list");
  expect_refused("[generate]\nlora = []\n", "\"lora\" has an empty list");
  expect_refused("[generate]\nlora = [1, 2]\n", "lora.toml:2: \"lora\" must be a text or a list of texts");
  expect_refused("[generate]\ncfg = {a = 1}\n", "lora.toml:2: \"cfg\" takes a value, not a table");
  expect_refused("[generate]\n\nseed = '-7'\n", "these options are from lora.toml: --seed (line 3)");
  expect_refused("[generate]\ncfg = 1979-05-27\n", "\"cfg\" must be a text or a number");
  expect_refused("[generate]\nfuse = 'yes'\n", "\"fuse\" must be true or false");
  expect_refused("[generate]\nprompt-syntax = 'odd'\n", "odd");
  expect_refused("[generate]\nprompt = 'half\n", "lora.toml:2: ");
}

}  // namespace lora
