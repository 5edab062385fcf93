// Where `lora generate` gets its prompts from: stdin, a file of prompts, styles; and how it reads them.
#include <sys/wait.h>

#include "cli/command.h"
#include "cli/said.h"
#include "cli/styles.h"
#include "lora/image.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

class PromptsCommand : public testing::Test {
 protected:
  std::string at(const std::string& name) const { return (folder_ / name).string(); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }
  // `lora generate` with the smallest model, and few steps unless the arguments have others.
  std::string draw(const std::string& arguments) const {
    return "generate " + tiny::folder("sd").string() + (contains(arguments, "--steps") ? "" : " --steps 2") +
           " --dtype float32 -o " + at("out.png") + " " + arguments;
  }
  Image drawn(const std::string& arguments) const {
    const auto result = lora_command(draw(arguments));
    EXPECT_EQ(result.code, 0) << arguments << "\n" << result.err;
    return result.code ? Image() : Image::load(folder_ / "out.png");
  }
  // The same with a text on stdin.
  Image drawn_from(const std::string& input, const std::string& arguments) const {
    write("input", input);
    const auto command = std::string(LORA_COMMAND) + " " + draw(arguments) + " <" + at("input") + " >/dev/null";
    EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 0) << command;
    return Image::load(folder_ / "out.png");
  }
  Image picture(int number) const { return Image::load(at("out-" + std::to_string(number) + ".png")); }
  bool drew_nothing() const {
    for (const auto& name : folder_.names())
      if (name.starts_with("out")) return false;
    return true;
  }

  TemporaryFolder folder_;
};

}  // namespace

TEST_F(PromptsCommand, ReadAttentionUnlessToldOtherwise) {
  const auto weights = drawn("-p 'red (apple:1.6)' --seed 1");
  EXPECT_EQ(said(weights, "prompt"), "red (apple:1.6)");
  EXPECT_FALSE(said(weights)["options"].contains("prompt-syntax"));
  const auto plain = drawn("-p 'red (apple:1.6)' --seed 1 --prompt-syntax plain");
  EXPECT_EQ(said(plain, "prompt-syntax"), "plain");
  EXPECT_NE(weights.pixels, plain.pixels);
  EXPECT_NE(weights.pixels, drawn("-p 'red apple' --seed 1").pixels);
  EXPECT_EQ(drawn("-p 'red \\(apple:1.6\\)' --seed 1").pixels, plain.pixels);
  expect_error(draw("-p owl --prompt-syntax a1111"), 2, "--prompt-syntax");

  // What the end of a long prompt says matters, unless the syntax is plain. Then it is told.
  std::string words;
  for (int i = 0; i < 40; ++i) words += "owl ";
  EXPECT_NE(drawn("--seed 1 -p '" + words + "'").pixels, drawn("--seed 1 -p '" + words + "cactus'").pixels);
  EXPECT_EQ(drawn("--prompt-syntax plain --seed 1 -p '" + words + "'").pixels,
            drawn("--prompt-syntax plain --seed 1 -p '" + words + "cactus'").pixels);
  EXPECT_FALSE(contains(lora_command(draw("-p '" + words + "'")).err, "note"));
  EXPECT_TRUE(contains(lora_command(draw("--prompt-syntax plain -p '" + words + "cactus'")).err,
                       "lora: note: text_encoder reads 32 tokens of the prompt. It does not read the end: \"owl"));
}

TEST_F(PromptsCommand, ComeFromStdin) {
  const auto wanted = drawn("-p 'red apple' -n blue --seed 1");
  EXPECT_EQ(drawn_from("red apple\n", "-p - -n blue --seed 1").pixels, wanted.pixels);
  EXPECT_EQ(drawn_from("blue\r\n", "-p 'red apple' -n - --seed 1").pixels, wanted.pixels);
  EXPECT_EQ(said(drawn_from("red apple\n", "-p - -n blue --seed 1"), "prompt"), "red apple");
  EXPECT_EQ(said(drawn_from("red\n\napple\n\n", "-p - --seed 1"), "prompt"), "red\n\napple\n");
  EXPECT_EQ(said(drawn_from("", "-p - --seed 1"), "prompt"), "");
  expect_error(draw("-p - -n -"), 2, "both read stdin");
}

TEST_F(PromptsCommand, ComeFromTheLinesOfAFile) {
  write("prompts.txt",
        "\xEF\xBB\xBF# what to draw\n"
        "red apple\n"
        "\n"
        "  (owl:1.3) on a yellow-red background --n blue, green --w 24 --h 16 --d 7 --l 3 --s 3  \r\n"
        "   # not this\n"
        "cactus --D 9 --N");
  // The last line has a flag without a value.
  expect_error(draw("--prompts " + at("prompts.txt")), 2, "prompts.txt:6: --N has no value");
  EXPECT_TRUE(drew_nothing());
  write("prompts.txt",
        "\xEF\xBB\xBF# what to draw\n"
        "red apple\n"
        "\n"
        "  (owl:1.3) on a yellow-red background --n blue, green --w 24 --h 16 --d 7 --l 3 --s 3  \r\n"
        "   # not this\n"
        "cactus --D 9");
  const auto result = lora_command(draw("--prompts " + at("prompts.txt") + " --seed 4 --count 2 -n red --json"));
  ASSERT_EQ(result.code, 0) << result.err;
  const auto report = tiny::json::parse(result.out);
  const std::vector<int> seeds{4, 5, 7, 8, 9, 10};
  ASSERT_EQ(report["images"].size(), seeds.size());
  for (size_t i = 0; i < seeds.size(); ++i) {
    EXPECT_EQ(report["images"][i]["seed"], seeds[i]);
    EXPECT_EQ(report["images"][i]["file"], at("out-" + std::to_string(i + 1) + ".png"));
  }
  const auto owl = picture(3);
  EXPECT_EQ(said(owl, "prompt"), "(owl:1.3) on a yellow-red background");
  EXPECT_EQ(said(owl, "negative"), "blue, green");
  EXPECT_EQ(said(owl, "seed"), "7");
  EXPECT_EQ(said(owl, "cfg"), "3.0");
  EXPECT_EQ(said(owl, "steps"), "3");
  EXPECT_EQ(owl.width, 24);
  EXPECT_EQ(owl.height, 16);
  // Each is the picture that its line draws alone.
  EXPECT_EQ(picture(1).pixels, drawn("-p 'red apple' -n red --seed 4 --count 1").pixels);
  EXPECT_EQ(owl.pixels,
            drawn("-p '(owl:1.3) on a yellow-red background' -n 'blue, green' --size 24x16 --seed 7 --cfg 3 "
                  "--steps 3")
                .pixels);
  EXPECT_EQ(picture(6).pixels, drawn("-p cactus -n red --seed 10").pixels);
  // Without --d, the seeds count on over all pictures.
  write("two.txt", "red apple\nowl\n");
  ASSERT_EQ(lora_command(draw("--prompts " + at("two.txt") + " --seed 4")).code, 0);
  EXPECT_EQ(picture(2).pixels, drawn("-p owl --seed 5").pixels);
}

TEST_F(PromptsCommand, OfAFileAreCheckedBeforeTheFirstIsDrawn) {
  const std::pair<const char*, const char*> rows[] = {
      {"owl\ncat --x 3", "prompts.txt:2: --x is not known"},
      {"owl --steps 3", "prompts.txt:1: --steps is not known"},
      {"owl --", "prompts.txt:1: -- is not known"},
      {"owl\n\ncat --w 3.5", "prompts.txt:3: --w 3.5: must be a whole number above 0"},
      {"owl --h 0", "--h 0: must be"},
      {"owl --s -1", "--s -1: must be"},
      {"owl --l high", "--l high: must be a number"},
      {"owl --l nan", "--l nan: must be a number"},
      {"owl --d x", "prompts.txt:1: --d x: must be a whole number from 0"},
      {"owl --d 18446744073709551615", "the largest seed"},
      {"owl --w 16 --W 24", "--W is there twice"},
      {"owl --n --w 3", "--n has no value"},
      {"--n blue", "prompts.txt:1: has no prompt"},
      {"# nothing\n\n", "has no prompts"},
      {"", "has no prompts"},
      {"owl <lora:x:1>", "--lora-dir"},
      {"owl --n '<lora:x:1>'", "prompts.txt:1: the negative prompt has the tag"},
  };
  for (const auto& [text, part] : rows) {
    write("prompts.txt", text);
    expect_error(draw("--count 2 --prompts " + at("prompts.txt")), 2, part);
    EXPECT_TRUE(drew_nothing()) << text;
  }
  write("prompts.txt", "owl");
  expect_error(draw("-p owl --prompts " + at("prompts.txt")), 2, "Give one of them");
  expect_error(draw(""), 2, "--prompt is required");
  expect_error(draw("--prompts " + at("nowhere.txt")), 1, "no such file");
  expect_error(draw("--prompts " + folder_.path().string()), 1, "is a folder");
  // What only the model knows is told with the line.
  write("prompts.txt", "owl\nowl --w 15 --h 16");
  expect_error(draw("--prompts " + at("prompts.txt")), 2, "prompts.txt:2: --size is 15x16");
}

TEST_F(PromptsCommand, OfAFileHaveTheirOwnLoras) {
  const auto pipe = tiny::open("sd");
  for (const char* name : {"ink", "neon"})
    save_safetensors(tiny::factors(*pipe, name, {"to_q", "to_v", "q_proj", "fc1"}, 2),
                     folder_ / (name + std::string(".safetensors")));
  write("prompts.txt", "owl <lora:ink:0.8>\nowl\nowl<lora:neon:0.5><lora:ink:0.8>\n");
  const auto dir = " --lora-dir " + folder_.path().string() + " --lora " + at("neon.safetensors") + ":0.3";
  ASSERT_EQ(lora_command(draw("--prompts " + at("prompts.txt") + " --seed 4" + dir)).code, 0);
  EXPECT_TRUE(contains(said_loras(picture(1)), "ink.safetensors:0.8"));
  EXPECT_FALSE(contains(said_loras(picture(2)), "ink"));
  EXPECT_EQ(picture(1).pixels, drawn("-p 'owl <lora:ink:0.8>' --seed 4" + dir).pixels);
  EXPECT_EQ(picture(2).pixels, drawn("-p owl --seed 5" + dir).pixels);
  EXPECT_EQ(picture(3).pixels, drawn("-p 'owl<lora:neon:0.5><lora:ink:0.8>' --seed 6" + dir).pixels);
  EXPECT_NE(drawn("-p owl --seed 4" + dir).pixels, drawn("-p 'owl <lora:ink:0.8>' --seed 4" + dir).pixels);
  expect_error(draw("--fuse --prompts " + at("prompts.txt") + dir), 2, "its lines have different LoRAs as tags");
  // Lines with the same LoRAs can be fused.
  write("same.txt", "owl <lora:ink:0.8>\ncactus <lora:ink:0.8>\n");
  ASSERT_EQ(lora_command(draw("--fuse --prompts " + at("same.txt") + dir)).code, 0);
}

TEST_F(PromptsCommand, TakeStyles) {
  write("styles.csv",
        "\xEF\xBB\xBFname,prompt,negative_prompt\r\n"
        "# old,x,y\r\n"
        "bold,\"a {prompt}, \"\"bold\"\" {prompt}\",\"blue,\ngreen\"\r\n"
        "\r\n"
        "soft, soft light ,\r\n"
        "none,,{prompt} grey\r\n"
        "short\r\n"
        "twice,a,b\ntwice,c,d\n");
  const auto styles = " --seed 1 --styles " + at("styles.csv");
  auto bold = drawn("-p owl -n red --style bold" + styles);
  EXPECT_EQ(said(bold, "prompt"), "a owl, \"bold\" owl");
  EXPECT_EQ(said(bold, "negative"), "red, blue,\ngreen");
  EXPECT_EQ(bold.pixels, drawn("-p 'a owl, \"bold\" owl' -n 'red, blue,\ngreen' --seed 1").pixels);
  auto soft = drawn("-p ' owl' --style soft" + styles);
  EXPECT_EQ(said(soft, "prompt"), "owl, soft light");
  EXPECT_EQ(soft.pixels, drawn("-p 'owl, soft light' --seed 1").pixels);
  auto both = drawn("-p owl -n red --style soft --style bold --style none --style short" + styles);
  EXPECT_EQ(said(both, "prompt"), "a owl, soft light, \"bold\" owl, soft light");
  EXPECT_EQ(said(both, "negative"), "red, blue,\ngreen grey");
  EXPECT_EQ(said(drawn("-p '' --style soft" + styles), "prompt"), "soft light");
  write("prompts.txt", "owl\ncactus --n red\n");
  ASSERT_EQ(lora_command(draw("--style bold --prompts " + at("prompts.txt") + styles)).code, 0);
  EXPECT_EQ(said(picture(1), "negative"), "blue,\ngreen");
  EXPECT_EQ(said(picture(2), "negative"), "red, blue,\ngreen");
  EXPECT_EQ(said(picture(2), "prompt"), "a cactus, \"bold\" cactus");

  expect_error(draw("-p owl --style Bold" + styles), 2, "It has: bold, soft, none, short, twice");
  expect_error(draw("-p owl --style twice" + styles), 2, "2 styles of this name");
  expect_error(draw("-p owl --style bold"), 2, "--style needs");
  expect_error(draw("-p owl" + styles), 2, "--styles needs");
  expect_error(draw("-p owl --style bold --styles " + at("nowhere.csv")), 1, "no such file");
  const std::pair<const char*, const char*> wrong[] = {
      {"", "has no styles"},
      {"title,text\na,b\n", "does not name the columns"},
      {"name,prompt,negative_prompt\nbold,x,y\nsoft,a, b, c\n", "styles.csv:3: has 4 fields for 3 columns"},
      {"name,prompt\nbold,\"x\n\n", "styles.csv:2: a quoted text has no end"},
  };
  for (const auto& [text, part] : wrong) {
    write("styles.csv", text);
    expect_error(draw("-p owl --style bold" + styles), 1, part);
  }
}

TEST(Styles, StandAroundThePromptOrAfterIt) {
  EXPECT_EQ(cli::styled("owl", "a {prompt} in {prompt}"), "a owl in owl");
  EXPECT_EQ(cli::styled("{prompt}", "a {prompt}"), "a {prompt}");
  EXPECT_EQ(cli::styled("owl ", " ink"), "owl, ink");
  EXPECT_EQ(cli::styled("owl", ""), "owl");
  EXPECT_EQ(cli::styled("", "ink"), "ink");
  EXPECT_EQ(cli::styled("", ""), "");
}

}  // namespace lora
