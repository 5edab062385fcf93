// `lora grid`: each cell is the picture that `generate` draws with the options of the cell alone, on every tiny
// pipeline.
#include <ATen/Parallel.h>
#include <gmock/gmock.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/differences.h"
#include "cli/grid_ranges.h"
#include "cli/option_names.h"
#include "cli/verbs.h"
#include "lora/image.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using testing::HasSubstr;
using Words = std::vector<std::string>;

struct Ended {
  int code = 0;
  std::string out, told;  // on stdout; on stderr, or the message of the error
};

Ended run(const Words& line) {
  CLI::App app("", "lora");
  cli::declare_generate(app);
  cli::declare_grid(app);
  std::vector<const char*> argv;
  for (const auto& word : line) argv.push_back(word.c_str());
  Ended ended;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  try {
    app.parse(int(argv.size()), argv.data());
  } catch (const CLI::ParseError& error) {
    ended = {2, "", error.what()};
  } catch (const Error& error) {
    ended = {error.kind() == ErrorKind::usage ? 2 : 1, "", cli::in_option_names(error.what())};
  }
  ended.out = testing::internal::GetCapturedStdout();
  ended.told += testing::internal::GetCapturedStderr();
  return ended;
}

Image part(const Image& image, const Json& cell) {
  const int left = cell["x"], top = cell["y"], width = cell["width"], height = cell["height"];
  Image part{width, height, {}, {}};
  for (int y = top; y < top + height; ++y) {
    const auto* row = image.pixels.data() + (size_t(y) * size_t(image.width) + size_t(left)) * 3;
    part.pixels.insert(part.pixels.end(), row, row + width * 3);
  }
  return part;
}

}  // namespace

class GridCommand : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    auto pipe = tiny::open(GetParam());
    for (const char* lora : {"ink", "neon"})
      save_safetensors(tiny::factors(*pipe, lora, {"to_q", "to_v", "query", "q_proj", "fc1"}, 2),
                       folder_ / (lora + std::string(".safetensors")));
    tiny::picture("grid", {16, 16}).save(folder_ / "image.png");
    Image mask{2, 1, {0, 0, 0, 255, 255, 255}, {}};
    mask.save(folder_ / "right.png");
    std::ofstream(folder_ / "styles.csv") << "name,prompt,negative_prompt\nbold,a {prompt} cactus,green\n";
  }

  std::string file(const std::string& name) const { return (folder_ / name).string(); }

  // The command with what all calls of the tests have. "{}" is the folder.
  Words line(const std::string& verb, const std::string& output, const Words& more) const {
    Words all{"lora",   verb,   tiny::folder(GetParam()).string(), "--dtype", "float32", "--threads", "1", "-o", output,
              "--size", "16x16"};
    if (GetParam() == "sd-inpaint") all.insert(all.end(), {"--image", file("image.png"), "--mask", file("right.png")});
    all.insert(all.end(), more.begin(), more.end());
    for (auto& word : all)
      for (size_t at; (at = word.find("{}")) != word.npos;) word.replace(at, 2, folder_.path().string());
    return all;
  }

  // The picture that `generate` draws with the options of a cell, and those that all cells have.
  Image alone(const Json& cell, Words more) const {
    more.insert(more.end(), {"-p", cell["prompt"], "--seed", std::to_string(cell["seed"].get<uint64_t>()), "--steps",
                             std::to_string(cell["steps"].get<int>()), "--scheduler", cell["scheduler"]});
    if (cell.contains("cfg")) more.insert(more.end(), {"--cfg", cell["cfg"].dump()});
    for (const auto& lora : cell["loras"])
      more.insert(more.end(), {"--lora", lora["file"].get<std::string>() + ":" + lora["weight"].dump()});
    const auto ended = run(line("generate", file("out.png"), more));
    EXPECT_EQ(ended.code, 0) << ended.told;
    return Image::load(folder_ / "out.png");
  }

  // Draws a grid, and returns its JSON.
  Json drawn(const Words& axes, const Words& more = {}) const {
    auto all = axes;
    all.insert(all.end(), more.begin(), more.end());
    const auto ended = run(line("grid", file("grid.png"), all));
    EXPECT_EQ(ended.code, 0) << ended.told;
    EXPECT_EQ(ended.out, file("grid.png") + "\n");
    return ended.code ? Json() : Json::parse(std::ifstream(folder_ / "grid.json"));
  }

  // Draws a grid. Each cell is the picture of `generate`, and at least two cells differ. `axes` are the options of grid
  // alone, `loras` those LoRAs that all cells have, and `more` what generate gets as it is.
  Json expect_cells(const Words& axes, const Words& more = {}, const Words& loras = {}) const {
    auto options = axes;
    options.insert(options.end(), loras.begin(), loras.end());
    const auto json = drawn(options, more);
    const auto picture = Image::load(folder_ / "grid.png");
    EXPECT_EQ(std::pair(picture.width, picture.height), std::pair(json["width"].get<int>(), json["height"].get<int>()));
    bool differ = false;
    for (const auto& cell : json["cells"]) {
      const auto pixels = part(picture, cell);
      EXPECT_LE(largest_difference(pixels, alone(cell, more)), 1) << cell;
      differ |= pixels.pixels != part(picture, json["cells"][0]).pixels;
    }
    EXPECT_TRUE(differ);
    return json;
  }

  void expect_refused(const Words& more, const std::string& says, int code = 2) const {
    fs::remove(folder_ / "grid.png");
    fs::remove(folder_ / "grid.json");
    const auto ended = run(line("grid", file("grid.png"), more));
    EXPECT_EQ(ended.code, code) << ended.told;
    EXPECT_THAT(ended.told, HasSubstr(says));
    EXPECT_FALSE(fs::exists(folder_ / "grid.png"));
    EXPECT_FALSE(fs::exists(folder_ / "grid.json"));
  }

  TemporaryFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(Pipelines, GridCommand,
                         testing::Values("sd", "sd-inpaint", "sdxl", "sd3", "sd35", "amused-256"), tiny::test_name);

TEST_P(GridCommand, LorasAndPrompts) {
  const auto json = expect_cells(
      {"--x", R"(lora: none, {}/ink.safetensors, {}/ink.safetensors:0.5, {}/neon.safetensors:{"weight": 2})", "--y",
       "prompt: red apple | a blue owl", "--steps", "3", "--cfg", "3", "--seed", "5"});
  ASSERT_EQ(json["cells"].size(), 8u);
  const auto& last = json["cells"][7];
  EXPECT_EQ(last["row"], 2);
  EXPECT_EQ(last["column"], 4);
  EXPECT_EQ(last["prompt"], "a blue owl");
  EXPECT_EQ(last["seed"], 5);
  EXPECT_EQ(last["cfg"], 3);
  EXPECT_EQ(last["loras"], Json::parse(R"([{"file": ")" + file("neon.safetensors") +
                                       R"(", "adapter": "neon", "weight": {"weight": 2}}])"));
  EXPECT_EQ(json["cells"][0]["loras"], Json::array());
  EXPECT_EQ(json["y"], Json::parse(R"({"axis": "prompt", "values": ["red apple", "a blue owl"]})"));
}

TEST_P(GridCommand, WeightsOfOneLoraAndOfAll) {
  auto json =
      expect_cells({"--x", "weight {}/ink.safetensors: 0-1 [3]", "--y", "seed: 7, 5-6", "-p", "rocket", "--steps", "3"},
                   {}, {"--lora", "{}/neon.safetensors:0.3"});
  ASSERT_EQ(json["cells"].size(), 9u);
  EXPECT_EQ(json["x"]["values"], (Json{"0", "0.5", "1"}));
  EXPECT_EQ(json["y"]["values"], (Json{"7", "5", "6"}));
  json = expect_cells({"--x", "weight: 0.5, 2", "--y", "lora: {}/ink.safetensors | none | {}/neon.safetensors", "-p",
                       "rocket", "--steps", "3", "--seed", "5"});
  ASSERT_EQ(json["cells"].size(), 6u);
  EXPECT_EQ(json["cells"][5]["loras"][0]["weight"], 2);
  EXPECT_EQ(json["cells"][3]["loras"], Json::array());
}

TEST_P(GridCommand, StepsGuidanceAndSchedulers) {
  auto json = expect_cells({"--x", "steps: 4-2", "--y", "cfg: 1, 2.5-4:1.5", "-p", "rocket", "--seed", "5"});
  ASSERT_EQ(json["cells"].size(), 9u);
  EXPECT_EQ(json["cells"][8]["steps"], 2);
  EXPECT_EQ(json["cells"][8]["cfg"], 4);
  const bool noise = GetParam().starts_with("sd-") || GetParam() == "sd" || GetParam() == "sdxl";
  const std::string schedulers = noise                        ? "dpmpp_2m_karras, euler, DPM++ 2M SDE, heun"
                                 : GetParam() == "amused-256" ? "AmusedScheduler"
                                                              : "flow_match_euler";
  json = expect_cells({"--y", "scheduler: " + schedulers, "--x", "lora: none, {}/ink.safetensors", "-p", "rocket",
                       "--seed", "5", "--steps", "3"});
  EXPECT_EQ(json["cells"].size(), noise ? 8u : 2u);
  expect_refused({"--x", "scheduler: " + schedulers + ", nothing", "-p", "rocket"}, "--x scheduler: nothing: ");
  const std::string other = noise ? "flow_match_euler" : "ddim";
  expect_refused({"--x", "scheduler: " + schedulers + ", " + other, "-p", "rocket"},
                 "--x scheduler: " + other + ": --scheduler is");
  if (GetParam() != "amused-256") expect_refused({"--x", "steps: 3, 2000", "-p", "rocket"}, "--x steps: 2000: ");
}

// What only the model can tell is refused before a picture is drawn, too.
TEST_P(GridCommand, WeightsThatDoNotFitTheModel) {
  const auto component = tiny::open(GetParam())->models().front().name;
  const auto weight = "{\"" + component + "\": {\"nowhere\": 1}}";
  expect_refused({"--x", "weight {}/ink.safetensors: 0 | " + weight, "-p", "rocket"},
                 "--x weight " + file("ink.safetensors") + ": " + weight + ": the weight of \"ink\" on " + component);
}

// Beside other options of generate, also where the prompts of a batch differ in length.
TEST_P(GridCommand, BesideOtherOptions) {
  const Words axes{
      "--x",     "prompt: red apple | a (blue:1.5) owl BREAK and a penguin on ice",
      "--y",     R"(weight {}/ink.safetensors: 0 | {"schedule": {"0": 0, "0.3": 4}} | {"mask": "{}/right.png"})",
      "--steps", "4",
      "--seed",  "5"};
  for (const auto& more : std::vector<Words>{{"-n", "blue"},
                                             {"--prompt-syntax", "plain"},
                                             {"--image", "{}/image.png", "--strength", "0.75"},
                                             {"--clip-skip", "1"}}) {
    SCOPED_TRACE(more[0]);
    if (GetParam() == "sd-inpaint" && more[0] == "--image") continue;      // it has one
    if (GetParam() == "amused-256" && more[0] == "--clip-skip") continue;  // it has none
    EXPECT_EQ(expect_cells(axes, more).value("cells", Json()).size(), 6u);
  }
}

// The styles and the tags of prompts: the JSON has the prompt that was drawn, and the LoRAs of the tags.
TEST_P(GridCommand, StylesAndTagsOfPrompts) {
  const auto json = drawn({"--x", "prompt: apple | apple <lora:ink:0.5>", "--steps", "3", "--seed", "5", "--style",
                           "bold", "--styles", "{}/styles.csv", "--lora-dir", "{}"});
  ASSERT_EQ(json["cells"].size(), 2u);
  EXPECT_EQ(json["cells"][0]["prompt"], "a apple cactus");
  EXPECT_EQ(json["cells"][0]["negative_prompt"], "green");
  EXPECT_EQ(json["cells"][1]["loras"][0]["weight"], 0.5);
  const auto picture = Image::load(folder_ / "grid.png");
  for (const auto& cell : json["cells"])
    EXPECT_LE(largest_difference(part(picture, cell), alone(cell, {"-n", "green"})), 1);
}

TEST(GridCalls, AreRefusedByNameBeforeTheWork) {
  TemporaryFolder folder;
  const auto model = tiny::folder("sd").string();
  auto expect_refused = [&](const Words& more, const std::string& says, int code = 2) {
    Words line{"lora", "grid", model};
    if (std::find(more.begin(), more.end(), "-o") == more.end())
      line.insert(line.end(), {"-o", (folder / "grid.png").string()});
    line.insert(line.end(), more.begin(), more.end());
    const auto ended = run(line);
    EXPECT_EQ(ended.code, code) << ended.told;
    EXPECT_THAT(ended.told, HasSubstr(says));
    EXPECT_TRUE(folder.names().empty());
  };
  expect_refused({"-p", "owl"}, "grid needs --x or --y");
  expect_refused({"--x", "steps: 2"}, "grid needs --prompt");
  for (const auto& [axis, says] : std::vector<std::pair<std::string, std::string>>{
           {"steps 1, 2", "--x steps 1, 2: the form is NAME: VALUE"},
           {"size: 1, 2", "\"size\" is no axis"},
           {"steps of: 1, 2", "\"steps\" takes no name"},
           {"steps: 1,, 2", "--x steps: a value is empty in \"1,, 2\""},
           {"steps:", "--x steps: a value is empty"},
           {"steps: 0", "--x steps 0: must be a whole number above 0"},
           {"steps: 1-2:0.5", "--x steps 1.5: must be a whole number above 0"},
           {"steps: 1-4:0", "--x steps 1-4:0: the step"},
           {"steps: 1-4 [1]", "--x steps 1-4 [1]: the number in []"},
           {"steps: 1-4000", "has more than 1000 values"},
           {"seed: 1-18446744073709551615", "has more than 1000 values"},
           {"cfg: 7,5x", "--x cfg 5x: must be a number"},
           {"seed: -2", "--x seed -2: must be a whole number"},
           {"weight ink.safetensors: 1, x", "--x weight ink.safetensors: x: ink.safetensors: the weight \"x\""},
           {"weight ink.safetensors: {\"vae\": 1}", "which is no component"},
           {"lora: none, ink.safetensors:x", "--x lora: ink.safetensors:x: ink.safetensors: the weight \"x\""},
           {"weight: 1, 2", "--x weight: names no LoRA"}})
    expect_refused({"-p", "owl", "--x", axis}, says);
  expect_refused({"--x", "steps: 1", "--y", "steps: 2", "-p", "owl"}, "--x and --y both set the number of steps");
  expect_refused({"--x", "weight a.safetensors: 1", "--y", "weight a.safetensors: 2", "-p", "owl"},
                 "--x and --y both set the weight of the LoRA");
  expect_refused({"--x", "prompt: a", "-p", "owl"}, "--x prompt and --prompt both set the prompt");
  expect_refused({"--x", "steps: 1", "--steps", "2", "-p", "owl"}, "--x steps and --steps both set");
  expect_refused({"--y", "cfg: 1", "--cfg", "2", "-p", "owl"}, "--y cfg and --cfg both set");
  expect_refused({"--x", "seed: 1", "--seed", "2", "-p", "owl"}, "--x seed and --seed both set");
  expect_refused({"--x", "scheduler: euler", "--scheduler", "ddim", "-p", "owl"}, "both set the scheduler");
  expect_refused({"--x", "weight a.safetensors: 1", "--lora", "a.safetensors", "-p", "owl"},
                 "--x weight a.safetensors and --lora both give the LoRA");
  expect_refused({"--x", "weight a.safetensors: 1", "--y", "lora: none, a.safetensors", "-p", "owl"},
                 "and --y lora both give the LoRA");
  expect_refused({"--x", "weight: 1", "--y", "lora: none, a.safetensors:0.5", "-p", "owl"},
                 "--x weight and --y lora both set the weight of a.safetensors:0.5");
  expect_refused({"--x", "steps: 1", "-p", "owl", "--prompts", "file.txt"}, "not expected: file.txt --prompts");
  expect_refused({"--x", "steps: 1", "-p", "owl", "--batch-size", "0"}, "--batch-size 0: must be at least 1");
  expect_refused({"--x", "steps: 1", "-p", "owl", "-o", "grid.jpg"}, "--output");
  expect_refused({"--x", "steps: 1", "-p", "owl", "-o", "{seed}.png"}, "does not have parts in braces");
  expect_refused({"--x", "seed: 0-199", "--y", "cfg: 1-7 [100]", "-p", "owl"}, "200 by 100 cells, but at most 10000");
  expect_refused({"--x", "seed: 0-99", "--y", "cfg: 1-7 [100]", "-p", "owl", "--size", "2048x2048"},
                 "has 41943 million pixels, but at most 268 million");
  expect_refused({"--x", "steps: 1", "-p", "owl", "-o", "nowhere/grid.png"}, "no such folder", 1);
  expect_refused({"--x", "lora: none, nowhere.safetensors", "-p", "owl"}, "nowhere.safetensors", 1);
}

TEST(GridCalls, JsonIsPrintedToo) {
  TemporaryFolder folder;
  const auto ended = run({"lora", "grid", tiny::folder("sd").string(), "-p", "owl", "--steps", "1", "--size", "16x16",
                          "--threads", "1", "--x", "seed: -1, 3", "--json", "-o", (folder / "a.png").string()});
  ASSERT_EQ(ended.code, 0) << ended.told;
  EXPECT_EQ(Json::parse(ended.out), Json::parse(std::ifstream(folder / "a.json")));
  const auto json = Json::parse(ended.out);
  EXPECT_EQ(json["y"], Json());
  EXPECT_EQ(json["x"]["values"][0], std::to_string(json["cells"][0]["seed"].get<uint64_t>()));  // the random seed
  EXPECT_THAT(ended.told, HasSubstr("2 cells"));
  EXPECT_EQ(Image::load(folder / "a.png").text.at("x"), "seed: -1, 3");
}

TEST(GridRanges, AreNumbersAsPeopleWriteThem) {
  auto numbers = [](const std::string& text) { return cli::numbers_of_range("--x", text, 1000); };
  EXPECT_EQ(numbers("1-4"), (Words{"1", "2", "3", "4"}));
  EXPECT_EQ(numbers("4 - 1:2"), (Words{"4", "2"}));
  EXPECT_EQ(numbers("0-0.3:0.1"), (Words{"0", "0.1", "0.2", "0.3"}));
  EXPECT_EQ(numbers("-1--0.5:0.25"), (Words{"-1", "-0.75", "-0.5"}));
  EXPECT_EQ(numbers("1--1 [3]"), (Words{"1", "0", "-1"}));
  EXPECT_EQ(numbers("18446744073709551614-18446744073709551615"),
            (Words{"18446744073709551614", "18446744073709551615"}));
  for (const char* other : {"1", "-1", "1e-3", "{\"unet\": 1}", "a-b", "1-", "[3]"})
    EXPECT_EQ(numbers(other), std::nullopt) << other;
}

}  // namespace lora
