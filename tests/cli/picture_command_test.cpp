// Pictures in and out: names, formats, what a picture says, and drawing it again.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/command_line.h"
#include "cli/infotext.h"
#include "cli/option_names.h"
#include "cli/said.h"
#include "lora/files.h"
#include "lora/image.h"
#include "lora/version.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

const auto kModel = (embedded_models() / "tiny").string();
const auto kLoras = (embedded_models() / "loras").string();
std::string style(const std::string& name) { return kLoras + "/" + name + ".safetensors"; }

// The command in this process, which is quicker than a new one. `arguments` have no quotes inside of words.
Result command(const std::string& arguments) {
  CLI::App app("", "lora");
  cli::declare_command_line(app);
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Result result{0, "", ""};
  std::string message;
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    result.code = 2, message = error.what();
  } catch (const Error& error) {
    result.code = error.kind() == ErrorKind::usage ? 2 : 1, message = cli::in_option_names(error.what());
  }
  result.out = testing::internal::GetCapturedStdout();
  result.err = testing::internal::GetCapturedStderr() + message;
  return result;
}

void expect_refused_call(const std::string& arguments, int code, const std::string& says) {
  auto result = command(arguments);
  EXPECT_EQ(result.code, code) << arguments << "\n" << result.err;
  EXPECT_THAT(result.err, HasSubstr(says)) << arguments;
}

class Pictures : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    static const TemporaryFolder caches;  // not the user's
    ::setenv("XDG_CACHE_HOME", caches.path().c_str(), /*overwrite=*/1);
    ::setenv("XDG_CONFIG_HOME", caches.path().c_str(), /*overwrite=*/1);
    at::set_num_threads(1);
  }
  std::string at(const std::string& name) const { return (folder_ / name).string(); }
  // `options` follow a call of one small step.
  Result draw(const std::string& options, const std::string& model = kModel) const {
    auto given = [&](const char* option) { return contains(options, option); };
    return command("generate " + model + (given("--steps ") ? "" : " --steps 1") +
                   (given("--size ") ? " " : " --size 16x16 ") + options);
  }
  Image drawn(const std::string& options, const std::string& name = "out.png") const {
    auto result = draw(options + " -o " + at(name));
    EXPECT_EQ(result.code, 0) << result.err;
    return Image::load(at(name));
  }
  // What `lora generate --from` draws of a picture.
  Image again(const std::string& from, const std::string& options = "") const {
    auto result = command("generate --from " + at(from) + " " + options + " -o " + at("again.png"));
    EXPECT_EQ(result.code, 0) << result.err;
    told_ = result.err;
    return Image::load(at("again.png"));
  }
  void expect_refused(const std::string& options, int code, const std::string& says) const {
    expect_refused_call("generate " + kModel + " -p owl " + options, code, says);
  }

  TemporaryFolder folder_;
  mutable std::string told_;
};

}  // namespace

// ---- Names ----------------------------------------------------------------------------------------------------------

TEST_F(Pictures, HaveTheFormatOfTheirName) {
  const auto png = drawn("-p owl --seed 1", "a.png"), webp = drawn("-p owl --seed 1", "a.webp"),
             jpeg = drawn("-p owl --seed 1", "a.JPG");
  EXPECT_EQ(webp.pixels, png.pixels);
  EXPECT_EQ(webp.text, png.text);
  EXPECT_EQ(jpeg.text, png.text);
  EXPECT_THAT(read(folder_ / "a.webp"), testing::StartsWith("RIFF"));
  EXPECT_THAT(read(folder_ / "a.JPG"), testing::StartsWith("\xFF\xD8"));
  expect_refused("-o " + at("a.gif"), 2, "give a name that ends in .png, .jpg or .webp, or a folder that exists");
  expect_refused("-o " + at("a"), 2, "give a name that ends in");
}

TEST_F(Pictures, OfAFolderAreNumberedAndReplaceNothing) {
  const auto folder = at("pictures");
  expect_refused("-o " + folder + "/", 1, "no such folder");
  fs::create_directory(folder);
  auto first = draw("-p owl --seed 7 --count 2 -o " + folder);
  EXPECT_EQ(first.out, folder + "/00001-7.png\n" + folder + "/00002-8.png\n") << first.err;
  folder_.write("pictures/00041-other.txt", "mine");
  auto second = draw("-p owl --seed 7 -o " + folder + "/");
  EXPECT_EQ(second.out, folder + "/00042-7.png\n") << second.err;
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 4);
  auto third = json::parse(draw("-p owl --seed 7 --json -o " + folder).out);
  EXPECT_EQ(third["images"][0]["file"], folder + "/00043-7.png");
}

TEST_F(Pictures, NamesHaveSeedsIndicesAndLoras) {
  auto named = draw("-p owl --seed 7 --count 2 --lora " + style("ink") + " --lora " + style("neon") + ":0.5 -o '" +
                    at("{lora} {index} {seed}.webp") + "'");
  EXPECT_EQ(named.out, at("ink+neon 1 7.webp") + "\n" + at("ink+neon 2 8.webp") + "\n") << named.err;
  auto result = draw("-p owl --seed 7 -o '" + at("{lora}.png") + "'");
  EXPECT_EQ(result.out, at("none.png") + "\n") << result.err;
  EXPECT_EQ(draw("-p owl --seed 7 -o '" + at("a{b.png") + "'").out, at("a{b.png") + "\n");
  expect_refused("-o '" + at("{sed}.png") + "'", 2, "{sed} is not known. A name takes {seed}, {index} and {lora}.");
  expect_refused("--count 2 -o '" + at("{lora}.png") + "'", 2, "two pictures would have the name " + at("none.png"));
  expect_refused("-o '" + at("{seed}/x.png") + "' --seed 3", 1, "no such folder: " + at("3"));
  folder_.write("two.txt", "red --d 4\nblue --d 4\n");
  auto twice = command("generate " + kModel + " --prompts " + at("two.txt") + " -o '" + at("{seed}.png") + "'");
  EXPECT_EQ(twice.code, 2);
  EXPECT_THAT(twice.err, HasSubstr("two pictures would have the name " + at("4.png")));
}

TEST_F(Pictures, GoToStdout) {
  const auto image = drawn("-p owl --seed 1");
  auto result = draw("-p owl --seed 1 -o -");
  ASSERT_EQ(result.code, 0) << result.err;
  folder_.write("stdout.png", result.out);
  EXPECT_EQ(Image::load(at("stdout.png")).pixels, image.pixels);
  EXPECT_EQ(Image::load(at("stdout.png")).text, image.text);
  expect_refused("-o - --json", 2, "--json");
  expect_refused("-o - --count 2", 2, "stdout takes one picture, and there are 2");
}

// ---- Pictures to start from -----------------------------------------------------------------------------------------

TEST_F(Pictures, OfAllFormatsAreStartedFrom) {
  const auto image = drawn("-p owl --seed 1", "a.png");
  image.save(folder_ / "a.webp");
  const auto from_png = drawn("-p apple --seed 2 --strength 1 --image " + at("a.png"));
  EXPECT_EQ(drawn("-p apple --seed 2 --strength 1 --image " + at("a.webp")).pixels, from_png.pixels);
  image.save(folder_ / "a.jpg");
  EXPECT_NE(drawn("-p apple --seed 2 --strength 1 --image " + at("a.jpg")).pixels, image.pixels);
  const auto masked = drawn("-p apple --seed 2 --image " + at("a.png") + " --mask " + at("a.webp"));
  EXPECT_EQ(masked.pixels, drawn("-p apple --seed 2 --image " + at("a.png") + " --mask " + at("a.png")).pixels);
}

TEST_F(Pictures, TransparencyIsTheMaskWhereNoneIsGiven) {
  // Its right half is transparent.
  const auto half = (test_data() / "io/half_transparent.png").string();
  auto loaded = Image::load(half);
  transparency_of(loaded).save(folder_ / "mask.png");
  loaded.alpha.clear();
  loaded.save(folder_ / "opaque.png");
  const auto common = std::string("-p apple --seed 2 --strength 1 --image ");
  EXPECT_THAT(draw(common + half + " -o " + at("x.png")).err, HasSubstr("its transparent part is the mask"));
  const auto with_alpha = drawn(common + half);
  EXPECT_EQ(with_alpha.pixels, drawn(common + at("opaque.png") + " --mask " + at("mask.png")).pixels);
  EXPECT_NE(with_alpha.pixels, drawn(common + at("opaque.png")).pixels);
  // A mask that is given comes first.
  Image black{.width = 16, .height = 16, .pixels = std::vector<uint8_t>(16 * 16 * 3)};
  black.save(folder_ / "black.png");
  EXPECT_EQ(drawn(common + half + " --mask " + at("black.png")).pixels, loaded.pixels);
  // The options of masks need no --mask then.
  EXPECT_NE(drawn(common + half + " --mask-invert").pixels, with_alpha.pixels);
}

// ---- What a picture says --------------------------------------------------------------------------------------------

TEST_F(Pictures, SayAllOptionsOfTheCall) {
  auto result = draw(
      "-p 'owl <lora:neon:0.2:0.9>' -n 'blue, red' --seed 5 --cfg 3 --scheduler 'DPM++ 2M Karras' "
      "--clip-skip 1 --count 2 --prompt-syntax plain --lora-dir " +
      kLoras + " --lora '" + style("ink") + R"(:{"unet": {"down": 0.5}, "images": [1]}' -o )" + at("a.png"));
  ASSERT_EQ(result.code, 0) << result.err;
  const auto first = Image::load(at("a-1.png")), second = Image::load(at("a-2.png"));
  const auto ink = hash_file(style("ink")), neon = hash_file(style("neon"));
  EXPECT_EQ(first.text.size(), 3u);
  EXPECT_EQ(said(first), (json{{"version", version()},
                               {"pipeline", "StableDiffusionPipeline"},
                               {"scheduler", "DPMSolverMultistepScheduler"},
                               {"steps_of_run", 1},
                               {"options",
                                {{"model", kModel},
                                 {"prompt", "owl "},
                                 {"negative", "blue, red"},
                                 {"seed", 5},
                                 {"size", "16x16"},
                                 {"steps", 1},
                                 {"cfg", 3.0},
                                 {"dtype", said(first)["options"]["dtype"]},
                                 {"scheduler", "DPM++ 2M Karras"},
                                 {"clip-skip", "1"},
                                 {"prompt-syntax", "plain"}}},
                               {"loras",
                                {{{"file", style("ink")},
                                  {"weight", {{"unet", {{"down", 0.5}}}}},
                                  {"hash", ink.a1111},
                                  {"sha256", ink.file}},
                                 {{"file", style("neon")},
                                  {"weight", {{"unet", 0.9}, {"text_encoder", 0.2}}},
                                  {"hash", neon.a1111},
                                  {"sha256", neon.file}}}}}));
  EXPECT_EQ(said(second)["loras"].size(), 1u) << "the other is for the first picture alone";
  EXPECT_EQ(said(second)["options"]["seed"], 6);
  EXPECT_EQ(second.text.at("parameters"),
            fmt::format("owl  <lora:neon:0.2:0.9>\nNegative prompt: blue, red\nSteps: 1, Sampler: DPM++ 2M, Schedule "
                        "type: Karras, CFG scale: 3, Seed: 6, Size: 16x16, Model: tiny, Clip skip: 2, Lora hashes: "
                        "\"neon: {}\", Version: lora.cpp {}",
                        neon.a1111.substr(0, 12), version()));
}

TEST_F(Pictures, AreToldByInfo) {
  drawn("-p 'owl, (red:1.2)' -n blue --seed 5 --lora " + style("ink") + ":0.5", "a.webp");
  auto result = command("info " + at("a.webp"));
  ASSERT_EQ(result.code, 0) << result.err;
  for (auto part : {"16 x 16 pixels\n  drawn by lora.cpp:\n", "      prompt: owl, (red:1.2)\n", "      seed: 5\n",
                    "  A1111's text:\n", "    negative_prompt: blue\n", "    Sampler: "})
    EXPECT_THAT(result.out, HasSubstr(part));
  auto report = json::parse(command("info --json " + at("a.webp")).out);
  ASSERT_EQ(report.size(), 1u);
  EXPECT_EQ(report[0]["width"], 16);
  EXPECT_EQ(report[0]["lora.cpp"]["options"]["prompt"], "owl, (red:1.2)");
  EXPECT_EQ(report[0]["a1111"]["Seed"], "5");
  EXPECT_EQ(report[0]["texts"], json::object());

  const auto comfy = (test_data() / "io/comfyui.webp").string(), plain = (test_data() / "io/rgba.png").string();
  auto others = command("info " + comfy + " " + plain);
  EXPECT_THAT(others.out, HasSubstr("ComfyUI's nodes:\n    KSampler 3:\n      seed: 5\n"));
  EXPECT_THAT(others.out, HasSubstr("in part transparent\n  It says nothing of how it was drawn.\n"));
  EXPECT_EQ(json::parse(command("info --json " + comfy).out)[0]["comfyui"]["KSampler 3"]["seed"], 5);
  expect_refused_call("info " + at("none.png"), 1, "no such file");
  expect_refused_call("info " + kModel + "/model_index.json", 1, "is not a PNG, JPEG or WebP file");

  // Texts from outside do nothing to a terminal, and deep JSON nothing to the stack.
  Image hostile{.width = 1, .height = 1, .pixels = {0, 0, 0}};
  hostile.text = {{"lora.cpp", "{\"a\": " + std::string(200000, '[') + std::string(200000, ']') + "}"},
                  {"prompt", "{\"1\": {\"class_type\": \"\\u001b[31m\", \"inputs\": {\"a\\nb\": 1}}}"}};
  hostile.save(folder_ / "hostile.png");
  auto told = command("info " + at("hostile.png"));
  EXPECT_EQ(told.code, 0);
  EXPECT_THAT(told.out, HasSubstr("    \\x1b[31m 1:\n      a\\nb: 1\n"));
  EXPECT_EQ(command("info --json " + at("hostile.png")).code, 0);
  EXPECT_EQ(command("generate --from " + at("hostile.png")).code, 1);
}

// ---- Drawing a picture again ----------------------------------------------------------------------------------------

TEST_F(Pictures, AreDrawnAgain) {
  const auto plain = drawn("-p 'owl (red:1.4)' -n blue --seed 5 --cfg 3 --steps 3 --size 24x16", "a.png");
  EXPECT_EQ(again("a.png").pixels, plain.pixels);
  EXPECT_THAT(told_, Not(HasSubstr("note")));
  EXPECT_EQ(said(Image::load(at("again.png"))), said(plain));
  drawn("-p 'owl (red:1.4)' -n blue --seed 5 --cfg 3 --steps 3 --size 24x16", "a.jpg");
  EXPECT_EQ(again("a.jpg").pixels, plain.pixels);

  // What the line says comes first.
  EXPECT_EQ(again("a.png", "--seed 6").pixels,
            drawn("-p 'owl (red:1.4)' -n blue --seed 6 --cfg 3 --steps 3 --size 24x16", "b.png").pixels);
  EXPECT_EQ(again("a.png", "-p apple --steps 2").pixels,
            drawn("-p apple -n blue --seed 5 --cfg 3 --steps 2 --size 24x16", "b.png").pixels);
  folder_.write("prompts.txt", "apple --s 2\n");
  EXPECT_EQ(again("a.png", "--prompts " + at("prompts.txt")).pixels, Image::load(at("b.png")).pixels);
  EXPECT_EQ(command("generate " + kModel + " --from " + at("a.png") + " -o " + at("c.png")).code, 0);
  EXPECT_EQ(Image::load(at("c.png")).pixels, plain.pixels);
}

TEST_F(Pictures, AreDrawnAgainWithTheirLoras) {
  TemporaryFolder loras;
  for (auto name : {"ink", "neon", "pixel"}) fs::copy(style(name), loras / (name + std::string(".safetensors")));
  auto file = [&](const std::string& name) { return (loras / (name + ".safetensors")).string(); };
  drawn("-p apple --seed 2", "image.png");
  drawn("-p owl --seed 3", "mask.png");
  const std::string options[] = {
      "--lora " + file("ink") + ":0.7 --lora " + file("neon"), "--fuse --lora " + file("ink") + ":-0.5",
      "--lora '" + file("ink") + R"(:{"unet": {"down": 0.4, "mid": 1}, "schedule": {"0": 0, "0.5": 1}, "mask": ")" +
          at("mask.png") + R"("}')",
      "--image " + at("image.png") + " --mask " + at("mask.png") + " --mask-blur 1 --strength 0.8 --lora " +
          file("neon")};
  for (const auto& each : options) {
    const auto image = drawn("-p owl --seed 5 --steps 4 " + each, "a.png");
    EXPECT_EQ(again("a.png").pixels, image.pixels) << each;
    EXPECT_THAT(told_, Not(HasSubstr("note"))) << each;
  }
  const auto tagged = drawn("-p 'owl <lora:ink:0.3:0.8> red' --seed 5 --lora-dir " + loras.path().string(), "a.png");
  EXPECT_EQ(again("a.png").pixels, tagged.pixels);

  // Under another name, it is found by its hash.
  fs::create_directory(loras / "moved");
  fs::rename(file("ink"), loras / "moved/other.safetensors");
  auto lost = command("generate --from " + at("a.png") + " -o " + at("b.png"));
  EXPECT_EQ(lost.code, 1);
  EXPECT_THAT(lost.err, HasSubstr("was drawn with the LoRA " + file("ink") + " (hash " +
                                  hash_file(style("ink")).a1111.substr(0, 12) + "), which is not here"));
  EXPECT_EQ(again("a.png", "--lora-dir " + loras.path().string()).pixels, tagged.pixels);
  // Another file of its name is taken with a note, after one with its hash.
  fs::copy(file("neon"), file("ink"));
  EXPECT_EQ(again("a.png", "--lora-dir " + loras.path().string()).pixels, tagged.pixels);
  EXPECT_THAT(told_, Not(HasSubstr("note")));
  fs::remove_all(loras / "moved");
  EXPECT_NE(again("a.png").pixels, tagged.pixels);
  EXPECT_THAT(told_, HasSubstr("has the name of its LoRA (hash "));
  // --lora replaces those of the picture.
  EXPECT_EQ(again("a.png", "--lora '" + style("ink") + R"(:{"unet": 0.8, "text_encoder": 0.3}')").pixels,
            tagged.pixels);
}

TEST_F(Pictures, OfEveryPipelineAreDrawnAgain) {
  tiny::picture("image", {16, 16}).save(folder_ / "image.webp");
  tiny::picture("mask", {16, 16}).save(folder_ / "mask.jpg");
  for (const auto& name : tiny::names()) {
    if (name == "sdxl-refiner") continue;
    SCOPED_TRACE(name);
    save_safetensors(tiny::factors(*tiny::open(name), "style", {"to_q", "query", "q_proj", "fc1"}, 2),
                     folder_ / "style.safetensors");
    std::string options = "-p 'red <lora:style:0.5:2> apple' -n blue --seed 5 --cfg 3 --steps 4 --dtype float32";
    options += " --lora-dir " + folder_.path().string();
    if (name == "sd-inpaint") options += " --image " + at("image.webp") + " --mask " + at("mask.jpg");
    if (name == "sdxl") options += " --prompt-2 owl --refiner " + tiny::folder("sdxl-refiner").string();
    auto result = draw(options + " -o " + at("a.png"), tiny::folder(name).string());
    ASSERT_EQ(result.code, 0) << result.err;
    const auto image = Image::load(at("a.png"));
    EXPECT_EQ(said(image)["loras"].size(), 1u);
    EXPECT_EQ(again("a.png").pixels, image.pixels);
    EXPECT_NE(again("a.png", "--seed 6").pixels, image.pixels);
    EXPECT_NE(again("a.png", "--lora " + at("style.safetensors") + ":0").pixels, image.pixels);
  }
}

TEST_F(Pictures, OfA1111AreDrawnAgain) {
  const auto ink = hash_file(style("ink")).a1111.substr(0, 12);
  Image theirs{.width = 1, .height = 1, .pixels = {0, 0, 0}};
  theirs.text["parameters"] =
      "a (owl:1.3) <lora:old-name:0.5>\nNegative prompt: blue\nSteps: 2, Sampler: DPM++ 2M, "
      "Schedule type: Karras, CFG scale: 3, Seed: 5, Size: 16x16, Model: tiny, Hires upscale: "
      "2, Lora hashes: \"old-name: " +
      ink + "\", Version: v1.10.1";
  theirs.save(folder_ / "a.png");
  const auto wanted = drawn("-p 'a (owl:1.3) ' -n blue --steps 2 --scheduler dpmpp_2m_karras --cfg 3 --seed 5 --lora " +
                                style("ink") + ":0.5",
                            "b.png");
  EXPECT_EQ(again("a.png", kModel + " --lora-dir " + kLoras).pixels, wanted.pixels);
  EXPECT_THAT(told_, HasSubstr("not used of its text: Hires upscale"));
  auto no_model = command("generate --from " + at("a.png") + " --lora-dir " + kLoras + " -o " + at("c.png"));
  EXPECT_EQ(no_model.code, 2);
  EXPECT_THAT(no_model.err, HasSubstr("was drawn with the model tiny, which is not here"));
  EXPECT_THAT(no_model.err, HasSubstr("MODEL is required"));
  auto no_folder = command("generate " + kModel + " --from " + at("a.png") + " -o " + at("c.png"));
  EXPECT_EQ(no_folder.code, 2);
  EXPECT_THAT(no_folder.err, HasSubstr("--lora-dir"));
  const auto without =
      drawn("-p 'a (owl:1.3) ' -n blue --steps 2 --scheduler dpmpp_2m_karras --cfg 3 --seed 5", "b.png");
  EXPECT_EQ(again("a.png", kModel + " --lora " + style("ink") + ":0").pixels, without.pixels);
}

TEST_F(Pictures, ThatSayNothingAreNotDrawnAgain) {
  const auto plain = (test_data() / "io/rgba.png").string();
  expect_refused_call("generate " + kModel + " --from " + plain, 2, "has no text of lora.cpp or A1111");
  expect_refused_call("generate " + kModel + " --from none.png", 1, "no such file");
  expect_refused_call("generate -p owl", 2, "MODEL is required");
  Image image{.width = 1, .height = 1, .pixels = {0, 0, 0}};
  const std::pair<const char*, const char*> rows[] = {
      {R"({"options": {"output": "x.png"}})", "has the option \"output\", which"},
      {R"({"options": {"magic": 1}})", "has the option \"magic\", which"},
      {R"({"options": {"steps": "many"}})", "--steps"},
      {R"({"options": {"steps": {}}})", "must be a text, a number"},
      {R"({"options": {}, "loras": [{"file": 1}]})", "\"loras\" must have"},
      {R"({"options": 1})", "is not that of a picture"},
      {"[]", "is not that of a picture"}};
  for (const auto& [text, says] : rows) {
    image.text["lora.cpp"] = text;
    image.save(folder_ / "a.png");
    auto result = command("generate " + kModel + " --from " + at("a.png"));
    EXPECT_NE(result.code, 0) << text;
    EXPECT_THAT(result.err, HasSubstr(says)) << text;
  }
  EXPECT_FALSE(fs::exists("x.png"));
}

TEST(Infotext, IsThatOfA1111) {
  const cli::Infotext text{
      .prompt = "a fox\n<lora:ink:0.5>",
      .negative = "blue",
      .fields = {{"Steps", "20"}, {"Sampler", "Euler a"}, {"Size", "64x64"}, {"Lora hashes", "ink: 12, neon: 34"}}};
  const auto written = cli::write_infotext(text);
  EXPECT_EQ(written,
            "a fox\n<lora:ink:0.5>\nNegative prompt: blue\nSteps: 20, Sampler: Euler a, Size: 64x64, Lora hashes: "
            "\"ink: 12, neon: 34\"");
  const auto read = cli::read_infotext(written);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->prompt, text.prompt);
  EXPECT_EQ(read->negative, text.negative);
  EXPECT_EQ(read->fields, text.fields);
  EXPECT_THAT(read->lora_hashes(), ElementsAre(std::pair<std::string, std::string>("ink", "12"),
                                               std::pair<std::string, std::string>("neon", "34")));

  // As A1111 writes it, with a list in quotes and a name with a bracket before it.
  const auto theirs = cli::read_infotext(
      "masterpiece, (fox:1.2): a test\nNegative prompt: worst quality,\nblurry\nSteps: 30, Sampler: DPM++ 2M, Schedule "
      "type: Karras, CFG scale: 7.5, Seed: 123, Size: 512x768, Model hash: 6ce0161689, Model: v1-5, Clip skip: 2, TI "
      "hashes: \"easy \\\"q\\\": c7, b: d\", Version: v1.10.1");
  ASSERT_TRUE(theirs);
  EXPECT_EQ(theirs->prompt, "masterpiece, (fox:1.2): a test");
  EXPECT_EQ(theirs->negative, "worst quality,\nblurry");
  EXPECT_EQ(*theirs->find("Schedule type"), "Karras");
  EXPECT_EQ(*theirs->find("TI hashes"), "easy \"q\": c7, b: d");
  EXPECT_EQ(theirs->fields.size(), 11u);
  EXPECT_FALSE(cli::read_infotext("a prompt, with: a colon"));
  EXPECT_FALSE(cli::read_infotext(""));
  for (auto hostile : {"a\n:::,,,\"\"\"", "a: \"b, c: d, e: f", "\n\n", "a:,b:,c:,", "a: \"\\"})
    cli::read_infotext(hostile);
}

}  // namespace lora
