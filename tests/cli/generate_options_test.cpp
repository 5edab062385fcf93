// The options of `generate`, each with each, on every tiny pipeline. A pair is never asserted only to run. Each option
// must act beside the other as it does alone: it changes the picture, or changes nothing, or is refused by name.
#include <ATen/Parallel.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>

#include <CLI/CLI.hpp>

#include "cli/differences.h"
#include "cli/option_names.h"
#include "cli/verbs.h"
#include "lora/image.h"
#include "pipelines/words.h"

namespace lora {

namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

enum class Acts { changes, not_at_all };

struct Option {
  const char* name;
  std::vector<std::string> arguments;   // "{}" is the folder of the files below
  std::vector<const char*> needs = {};  // options that it is always given with
  Acts acts = Acts::changes;            // with what it needs, against that alone
  // The pipelines that refuse it, and what the message says. "*" is all others.
  std::map<std::string, std::string> refused = {};
  std::vector<const char*> hides = {};    // options without effect beside it
  std::vector<const char*> reveals = {};  // options with an effect beside it alone
  std::vector<const char*> clashes = {};  // options that are refused beside it …
  const char* says = "";                  // … with a message that says this
};

// The base of all runs: MODEL -p … --size 16x16 --steps 4 --cfg 3 --seed 5 --dtype float32. An option of the same name
// replaces it.
const std::vector<Option>& options() {
  static const std::vector<Option> all{
      {.name = "prompt", .arguments = {"-p", "blue owl"}},
      {.name = "prompt 2",
       .arguments = {"--prompt-2", "cactus"},
       .refused = {{"sd", "--prompt-2"}, {"sd-inpaint", "--prompt-2"}, {"amused-256", "--prompt-2"}}},
      {.name = "prompt 3", .arguments = {"--prompt-3", "cactus"}, .refused = {{"sd35", ""}, {"*", "--prompt-3"}}},
      {.name = "negative", .arguments = {"-n", "blue"}},
      {.name = "weights", .arguments = {"-p", "blue (owl:1.6) BREAK [red] apple"}, .reveals = {"plain"}},
      {.name = "plain", .arguments = {"--prompt-syntax", "plain"}, .acts = Acts::not_at_all},
      {.name = "style", .arguments = {"--style", "bold", "--styles", "{}/styles.csv"}},
      {.name = "steps", .arguments = {"--steps", "5"}},
      {.name = "no guidance", .arguments = {"--cfg", "1"}, .hides = {"negative", "guidance rescale"}},
      {.name = "seed", .arguments = {"--seed", "6"}},
      {.name = "size", .arguments = {"--size", "24x16"}},
      {.name = "image", .arguments = {"--image", "{}/image.png", "--strength", "1"}},
      {.name = "strength", .arguments = {"--strength", "0.75"}, .needs = {"image"}},
      // Its right lower quarter is white.
      {.name = "mask", .arguments = {"--mask", "{}/mask.png"}, .needs = {"image"}},
      // Its edge reaches the whole picture.
      {.name = "mask blur", .arguments = {"--mask-blur", "4"}, .needs = {"mask"}, .hides = {"only masked"}},
      // The part that it masks is the whole picture.
      {.name = "mask invert", .arguments = {"--mask-invert"}, .needs = {"mask"}, .hides = {"only masked"}},
      {.name = "model's rest", .arguments = {"--no-keep-unmasked"}, .needs = {"mask"}},
      {.name = "own rest", .arguments = {"--keep-unmasked"}, .needs = {"mask"}, .acts = Acts::not_at_all},
      {.name = "only masked",
       .arguments = {"--only-masked", "1"},
       .needs = {"mask"},
       .clashes = {"model's rest"},
       .says = "--no-keep-unmasked"},
      // Where the mask is black everywhere, only the image and what encodes it matter.
      {.name = "black mask",
       .arguments = {"--mask", "{}/black.png", "--no-keep-unmasked"},
       .needs = {"image"},
       .hides = {"prompt",   "prompt 2",  "prompt 3",         "negative",  "weights",
                 "style",    "steps",     "no guidance",      "strength",  "scheduler",
                 "velocity", "eta",       "guidance rescale", "clip skip", "text encoder",
                 "lora",     "lora late", "lora left",        "refiner",   "refiner start"}},
      {.name = "refiner", .arguments = {"--refiner", "{}/refiner"}, .refused = {{"sdxl", ""}, {"*", "--refiner"}}},
      {.name = "own refiner",
       .arguments = {"--refiner", "{}/model"},
       .acts = Acts::not_at_all,
       .refused = {{"sdxl", ""}, {"*", "--refiner"}}},
      {.name = "refiner start",
       .arguments = {"--refiner-start", "0.7"},
       .needs = {"refiner"},
       .refused = {{"sdxl", ""}, {"*", "--refiner"}}},
      {.name = "scheduler",
       .arguments = {"--scheduler", "ddim"},
       .refused = {{"sd3", "--scheduler is ddim"},
                   {"sd35", "--scheduler is ddim"},
                   {"amused-256", "--scheduler is ddim"}}},
      {.name = "velocity",
       .arguments = {"--prediction-type", "v_prediction"},
       .refused = {{"sd3", "--prediction-type is"},
                   {"sd35", "--prediction-type is"},
                   {"amused-256", "--prediction-type is"}},
       .reveals = {"own refiner"}},  // it is of MODEL alone
      {.name = "eta",
       .arguments = {"--eta", "0.5"},
       .needs = {"scheduler"},
       .refused = {{"sd3", "--scheduler is ddim"},
                   {"sd35", "--scheduler is ddim"},
                   {"amused-256", "--scheduler is ddim"}}},
      {.name = "guidance rescale",
       .arguments = {"--guidance-rescale", "0.7"},
       .refused = {{"sd3", "--guidance-rescale"},
                   {"sd35", "--guidance-rescale"},
                   {"amused-256", "--guidance-rescale"}}},
      {.name = "clip skip", .arguments = {"--clip-skip", "1"}, .refused = {{"amused-256", "--clip-skip"}}},
      {.name = "lora", .arguments = {"--lora", "{}/ink.safetensors:0.8"}},
      {.name = "lora at 0", .arguments = {"--lora", "{}/neon.safetensors:0"}, .acts = Acts::not_at_all},
      {.name = "lora late",
       .arguments = {"--lora", R"({}/late.safetensors:{"schedule": {"0": 0, "0.2": 5}})"},
       .clashes = {"fuse"},
       .says = "a weight alone"},
      {.name = "lora left",
       .arguments = {"--lora", R"({}/left.safetensors:{"mask": "{}/right.png"})"},
       .clashes = {"fuse"},
       .says = "a weight alone"},
      {.name = "fuse", .arguments = {"--fuse"}, .needs = {"lora"}, .acts = Acts::not_at_all},
      // A picture whose options the line has too.
      {.name = "from", .arguments = {"--from", "{}/from.png"}, .acts = Acts::not_at_all},
      {.name = "lora dir", .arguments = {"--lora-dir", "{}"}, .acts = Acts::not_at_all},
      {.name = "variant",
       .arguments = {"--variant", "fp16"},
       .acts = Acts::not_at_all,
       .clashes = {"refiner", "refiner start"},
       .says = "fp16"},
      {.name = "json", .arguments = {"--json"}, .acts = Acts::not_at_all},
      {.name = "device", .arguments = {"--device", "cpu"}, .acts = Acts::not_at_all},
      {.name = "low memory", .arguments = {"--low-memory"}, .acts = Acts::not_at_all},
      // The pictures are smaller than a tile. ATileIsAPartOfALargePicture has larger ones.
      {.name = "vae tiling",
       .arguments = {"--vae-tiling", "on"},
       .acts = Acts::not_at_all,
       .refused = {{"amused-256", "--vae-tiling on"}}},
      {.name = "batch size", .arguments = {"--batch-size", "1"}, .acts = Acts::not_at_all},
      {.name = "vae", .arguments = {"--vae", "{}/vae"}, .refused = {{"amused-256", "VQ model"}}},
      {.name = "text encoder",
       .arguments = {"--text-encoder", "text_encoder={}/text_encoder"},
       .reveals = {"embedding"}},
      // Its vectors are those of the base's prompt in the model's own text encoders.
      {.name = "embedding",
       .arguments = {"-p", "qzv", "--embedding", "{}/qzv.safetensors:qzv"},
       .acts = Acts::not_at_all},
      {.name = "own vae",
       .arguments = {"--vae", "{}/model/vae"},
       .acts = Acts::not_at_all,
       .refused = {{"amused-256", "VQ model"}}},
  };
  return all;
}

const Option& option(const std::string& name) {
  for (const auto& o : options())
    if (o.name == name) return o;
  throw std::runtime_error("no option " + name);
}

bool lists(const std::vector<const char*>& names, const Option& o) {
  return std::ranges::any_of(names, [&](auto name) { return std::string(name) == o.name; });
}

// The arguments of the library are options under other names.
void expect_option_names(const std::string& told) {
  for (const char* name : {"adapter_name",
                           "adapters_per_image",
                           "cache_dir",
                           "clip_skip",
                           "denoising_start",
                           "denoising_end",
                           "force_download",
                           "fuse_lora",
                           "guidance_scale",
                           "local_files_only",
                           "lora_scale",
                           "mask_image",
                           "max_loss",
                           "negative_prompt",
                           "num_images_per_prompt",
                           "num_inference_steps",
                           "PartialLora",
                           "prediction_type",
                           "prompt_2",
                           "prompt_3",
                           "safe_fusing",
                           "weight_name",
                           "text_encoders",
                           "load_textual_inversion"})
    EXPECT_THAT(told, Not(HasSubstr(name)));
}

// What a run gives: pictures, or a message.
struct Outcome {
  int code = 0;
  std::string message;
  std::vector<Image> images;
};

using Names = std::set<std::string>;

Names with_needs(const Names& names) {
  Names all = names;
  for (const auto& name : names)
    for (const auto* needed : option(name).needs) all.merge(with_needs({needed}));
  return all;
}

// Options of which one replaces an argument of another.
bool replaces(const Names& names) {
  std::set<std::string> seen;
  for (const auto& name : with_needs(names))
    for (const auto& word : option(name).arguments)
      if (word.starts_with("--") && word != "--lora" && word != "--strength" && !seen.insert(word).second) return true;
  return false;
}

// A mask that is white from a column and a row on.
void save(const fs::path& file, int from_column, int from_row = 0) {
  Image mask{16, 16, std::vector<uint8_t>(16 * 16 * 3), {}};
  for (int y = from_row; y < 16; ++y)
    for (int x = from_column; x < 16; ++x)
      for (int c = 0; c < 3; ++c) mask.pixels[size_t((y * 16 + x) * 3 + c)] = 255;
  mask.save(file);
}

}  // namespace

class GenerateOptions : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    const auto& name = GetParam();
    fs::copy(tiny::folder(name), folder_ / "model", fs::copy_options::recursive);
    auto denoiser = folder_ / "model" / (fs::exists(folder_ / "model" / "unet") ? "unet" : "transformer");
    fs::copy(denoiser / "diffusion_pytorch_model.safetensors", denoiser / "diffusion_pytorch_model.fp16.safetensors");
    fs::create_directory_symlink(tiny::folder("sdxl-refiner"), folder_ / "refiner");
    auto pipe = tiny::open(name);
    for (const char* lora : {"ink", "neon", "late", "left"})
      save_safetensors(tiny::factors(*pipe, lora, {"to_q", "to_v", "query", "q_proj", "fc1"}, 2),
                       folder_ / (lora + std::string(".safetensors")));
    tiny::picture("options", {16, 16}).save(folder_ / "image.png");
    auto from = tiny::picture("from", {16, 16});
    from.text["lora.cpp"] =
        R"({"options": {"prompt": "cat", "seed": 9, "size": "24x24", "steps": 9, "cfg": 9.0}, "loras": []})";
    from.save(folder_ / "from.png");
    save(folder_ / "mask.png", 8, 8);
    save(folder_ / "right.png", 8);
    save(folder_ / "black.png", 16);
    save_other("vae", "diffusion_pytorch_model.safetensors");
    save_other("text_encoder", "model.safetensors");
    save_safetensors(tiny::vectors_of(*pipe, "red apple"), folder_ / "qzv.safetensors");
    std::ofstream(folder_ / "styles.csv") << "name,prompt,negative_prompt\nbold,a {prompt} cactus,green\n";
  }

  // Runs `lora generate` with options, and with arguments that replace those of the options. "" stands for the value of
  // a flag. Each set runs once.
  const Outcome& drawn(const Names& names, const std::map<std::string, std::string>& more = {}) {
    std::map<std::string, std::vector<std::string>> given{{"-p", {"red apple"}}, {"--size", {"16x16"}},
                                                          {"--steps", {"4"}},    {"--cfg", {"3"}},
                                                          {"--seed", {"5"}},     {"--dtype", {"float32"}}};
    if (GetParam() == "sd-inpaint") given["--image"] = {"{}/image.png"}, given["--mask"] = {"{}/mask.png"};
    std::vector<std::string> loras;
    for (const auto& name : with_needs(names)) {
      std::string key;
      for (const auto& word : option(name).arguments) {
        if (word.starts_with('-'))
          given[key = word].clear();
        else
          key == "--lora" ? loras.push_back(word) : given[key].push_back(word);
      }
    }
    if (!loras.empty()) given.erase("--lora");
    for (const auto& [name, value] : more)
      given[name] = value.empty() ? std::vector<std::string>() : std::vector{value};
    std::vector<std::string> line{"lora", "generate", "{}/model", "--threads", "1", "-o", "{}/out.png"};
    for (const auto& lora : loras) line.insert(line.end(), {"--lora", lora});
    for (const auto& [name, values] : given) {
      line.push_back(name);
      line.insert(line.end(), values.begin(), values.end());
    }
    for (auto& word : line)
      for (size_t at; (at = word.find("{}")) != word.npos;) word.replace(at, 2, folder_.path().string());
    auto [known, is_new] = outcomes_.try_emplace(line);
    if (is_new) known->second = run(line);
    return known->second;
  }

  // The options that can be given beside the base of all runs.
  std::vector<Option> options_here() const {
    std::vector<Option> here;
    for (const auto& o : options()) {
      if (GetParam() == "sd-inpaint" && lists({"image", "mask"}, o)) continue;  // the base has them
      here.push_back(o);
      // This model draws the whole picture, also where the mask is black.
      if (GetParam() == "sd-inpaint" && lists({"black mask"}, o)) here.back().hides.clear();
      if (GetParam() != "amused-256") continue;
      // At full strength, all tokens of the image are masked. A kept token is not drawn.
      if (lists({"image"}, o)) here.back().acts = Acts::not_at_all;
      if (lists({"black mask"}, o)) here.back().hides.push_back("seed");
    }
    return here;
  }

  // What a pipeline answers to an option, where it refuses it.
  std::optional<std::string> refusal(const Option& o) const {
    auto own = o.refused.find(GetParam());
    if (own == o.refused.end()) own = o.refused.find("*");
    if (own == o.refused.end() || own->second.empty()) return std::nullopt;
    return own->second;
  }

  // `a` acts beside the others as it does alone.
  void expect_acts(const Option& a, const Names& others, Acts acts) {
    const auto all = with_needs([&] {
      auto n = others;
      n.insert(a.name);
      return n;
    }());
    auto without = all;
    without.erase(a.name);
    if (with_needs(without).contains(a.name)) return;  // one of the others needs it
    const auto &with_it = drawn(all), &without_it = drawn(without);
    ASSERT_EQ(with_it.code, 0) << with_it.message;
    ASSERT_EQ(without_it.code, 0) << without_it.message;
    auto difference = largest_difference(with_it.images.front(), without_it.images.front());
    // Runs are repeatable to the bit. Where an option does not matter, it may still round in another way.
    if (acts == Acts::not_at_all)
      EXPECT_LE(difference, 1) << a.name << " must not matter beside " << fmt::format("{}", fmt::join(without, ", "));
    else
      EXPECT_GT(difference, 0) << a.name << " must matter beside " << fmt::format("{}", fmt::join(without, ", "));
  }

  TemporaryFolder folder_;

 private:
  std::map<std::vector<std::string>, Outcome> outcomes_;

  // Where the model has this component: another one of its shape.
  void save_other(const std::string& component, const char* weights) {
    const auto own = folder_ / "model" / component;
    if (!fs::exists(own)) return;
    fs::copy(own, folder_ / component, fs::copy_options::recursive);
    StateDict other;
    for (const auto& [name, t] : load_state_dict(own / weights))
      other.set(name, reference::weight("other." + name, t.sizes()));
    // As in files for Stable Diffusion 3.
    if (component == "text_encoder" && GetParam().starts_with("sd3"))
      other.set("text_projection.weight", at::eye(other.at("text_projection.weight").size(0)));
    save_safetensors(other, folder_ / component / weights);
  }

  Outcome run(const std::vector<std::string>& line) {
    CLI::App app("", "lora");
    cli::declare_generate(app);
    std::vector<const char*> argv;
    for (const auto& word : line) argv.push_back(word.c_str());
    for (const auto& file : folder_.names())
      if (file.starts_with("out")) fs::remove(folder_ / file);
    Outcome outcome;
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    try {
      app.parse(int(argv.size()), argv.data());
    } catch (const CLI::ParseError& error) {
      outcome = {2, error.what(), {}};
    } catch (const Error& error) {
      outcome = {error.kind() == ErrorKind::usage ? 2 : 1, cli::in_option_names(error.what()), {}};
    }
    testing::internal::GetCapturedStdout();
    expect_option_names(outcome.message + testing::internal::GetCapturedStderr());
    for (const char* file : {"out.png", "out-1.png", "out-2.png", "out-3.png"})
      if (fs::exists(folder_ / file)) outcome.images.push_back(Image::load(folder_ / file));
    EXPECT_EQ(outcome.images.empty(), outcome.code != 0) << outcome.message;
    return outcome;
  }
};

INSTANTIATE_TEST_SUITE_P(Pipelines, GenerateOptions,
                         testing::Values("sd", "sd-inpaint", "sdxl", "sd3", "sd35", "amused-256"), tiny::test_name);

TEST_P(GenerateOptions, EachActsBesideEachAsItDoesAlone) {
  const auto here = options_here();
  for (const auto& a : here) {
    SCOPED_TRACE(a.name);
    if (auto says = refusal(a)) {
      EXPECT_EQ(drawn({a.name}).code, 2);
      EXPECT_THAT(drawn({a.name}).message, HasSubstr(*says));
    } else {
      expect_acts(a, {}, a.acts);
    }
    for (const auto& b : here) {
      if (&b <= &a || b.arguments[0] == (a.arguments[0] == "--lora" ? "" : a.arguments[0])) continue;
      SCOPED_TRACE(b.name);
      if (replaces({a.name, b.name})) continue;
      const auto says_a = refusal(a), says_b = refusal(b);
      if (says_a || says_b) {
        const auto& outcome = drawn({a.name, b.name});
        EXPECT_EQ(outcome.code, 2);
        EXPECT_TRUE((says_a && outcome.message.find(*says_a) != std::string::npos) ||
                    (says_b && outcome.message.find(*says_b) != std::string::npos))
            << outcome.message;
      } else if (lists(a.clashes, b) || lists(b.clashes, a)) {
        const auto& outcome = drawn({a.name, b.name});
        EXPECT_NE(outcome.code, 0);
        EXPECT_THAT(outcome.message, HasSubstr(lists(a.clashes, b) ? a.says : b.says));
      } else {
        expect_acts(a, {b.name}, lists(b.hides, a) ? Acts::not_at_all : lists(b.reveals, a) ? Acts::changes : a.acts);
        expect_acts(b, {a.name}, lists(a.hides, b) ? Acts::not_at_all : lists(a.reveals, b) ? Acts::changes : b.acts);
      }
    }
  }
}

// Picture k of a batch is the picture of the k-th seed alone, beside every option.
TEST_P(GenerateOptions, ABatchIsItsPicturesAlone) {
  for (const auto& a : options_here()) {
    if (refusal(a) || a.name == std::string("seed")) continue;
    SCOPED_TRACE(a.name);
    const auto& batch = drawn({a.name}, {{"--count", "2"}});
    ASSERT_EQ(batch.images.size(), 2u) << batch.message;
    for (int k = 0; k < 2; ++k) {
      const auto& alone = drawn({a.name}, {{"--seed", std::to_string(5 + k)}});
      ASSERT_EQ(alone.code, 0) << alone.message;
      EXPECT_LE(largest_difference(batch.images[size_t(k)], alone.images.front()), 1) << "picture " << k + 1;
    }
  }
  // A LoRA for one picture.
  const auto& both = drawn({}, {{"--count", "2"}, {"--lora", R"({}/ink.safetensors:{"weight": 0.8, "images": [2]})"}});
  ASSERT_EQ(both.images.size(), 2u) << both.message;
  EXPECT_LE(largest_difference(both.images[0], drawn({}).images.front()), 1);
  EXPECT_LE(largest_difference(both.images[1], drawn({"lora", "seed"}).images.front()), 1);
}

// What is not masked is the picture, beside every option.
TEST_P(GenerateOptions, WhatIsNotMaskedIsKept) {
  const auto image = Image::load(folder_ / "image.png");
  for (const auto& a : options_here()) {
    SCOPED_TRACE(a.name);
    if (refusal(a) || replaces({a.name, "mask"})) continue;
    const auto& kept = drawn({a.name, "image"}, {{"--mask", "{}/black.png"}});
    if (lists({"only masked"}, a)) {
      EXPECT_EQ(kept.code, 2);
      EXPECT_THAT(kept.message, HasSubstr("black everywhere"));
      continue;
    }
    ASSERT_EQ(kept.code, 0) << kept.message;
    if (lists({"size", "mask invert", "model's rest"}, a)) continue;
    EXPECT_EQ(kept.images.front().pixels, image.pixels);
  }
  // Far from the edge of the mask, beside the options that move it.
  auto expect_kept = [&](const Names& names, int rows) {
    const auto& picture = drawn(names, {{"--mask-blur", "1"}});
    ASSERT_EQ(picture.code, 0) << picture.message;
    const auto bytes = size_t(rows) * 16 * 3;
    const auto& drawn_pixels = picture.images.front().pixels;
    EXPECT_TRUE(std::equal(image.pixels.begin(), image.pixels.begin() + int64_t(bytes), drawn_pixels.begin()));
    EXPECT_NE(picture.images.front().pixels, image.pixels);
  };
  expect_kept({"image", "mask"}, 5);
  expect_kept({"image", "mask", "only masked"}, 5);
}

// Also where the weights are converted, so that they are made anew before each run of their model.
TEST_P(GenerateOptions, LowMemoryDrawsTheSameBesideEach) {
  const std::map<std::string, std::string> converted{{"--dtype", "bfloat16"}, {"--count", "2"}};
  for (const auto& a : options_here()) {
    if (refusal(a)) continue;
    SCOPED_TRACE(a.name);
    const auto &usual = drawn({a.name}, converted), &low = drawn({a.name, "low memory"}, converted);
    ASSERT_EQ(usual.images.size(), 2u) << usual.message;
    ASSERT_EQ(low.images.size(), 2u) << low.message;
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(low.images[i].pixels, usual.images[i].pixels);
  }
}

TEST_P(GenerateOptions, ATileIsAPartOfALargePicture) {
  auto with = [&](const char* tiling) { return drawn({}, {{"--size", "48x40"}, {"--vae-tiling", tiling}}); };
  const auto whole = drawn({}, {{"--size", "48x40"}});
  for (const char* same : {"auto", "off"}) EXPECT_EQ(with(same).images.front().pixels, whole.images.front().pixels);
  if (GetParam() == "amused-256") return;
  EXPECT_GT(largest_difference(with("on").images.front(), whole.images.front()), 0);
  EXPECT_EQ(drawn({}, {{"--vae-tiling", "maybe"}}).code, 2);
}

TEST_P(GenerateOptions, BatchesOfEachSizeDrawTheSame) {
  const auto& whole = drawn({}, {{"--count", "3"}, {"--batch-size", "3"}});
  ASSERT_EQ(whole.images.size(), 3u) << whole.message;
  for (const char* size : {"1", "2", "5"}) {
    const auto& batches = drawn({}, {{"--count", "3"}, {"--batch-size", size}});
    ASSERT_EQ(batches.images.size(), 3u) << batches.message;
    for (size_t i = 0; i < 3; ++i) EXPECT_LE(largest_difference(batches.images[i], whole.images[i]), 1) << size;
  }
  EXPECT_THAT(drawn({}, {{"--batch-size", "0"}}).message, HasSubstr("--batch-size 0: must be at least 1"));
  // A LoRA for the last picture alone, of a batch that begins with another.
  const char* third = R"({}/ink.safetensors:{"weight": 0.8, "images": [3]})";
  const auto& last = drawn({}, {{"--count", "3"}, {"--batch-size", "2"}, {"--lora", third}});
  ASSERT_EQ(last.images.size(), 3u) << last.message;
  EXPECT_LE(largest_difference(last.images[1], whole.images[1]), 1);
  EXPECT_LE(largest_difference(last.images[2], drawn({"lora"}, {{"--seed", "7"}}).images.front()), 1);
}

TEST_P(GenerateOptions, AnotherSpellingDrawsTheSame) {
  auto expect_same = [&](const Outcome& a, const Outcome& b) {
    ASSERT_EQ(a.code, 0) << a.message;
    ASSERT_EQ(b.code, 0) << b.message;
    EXPECT_LE(largest_difference(a.images.front(), b.images.front()), 1);
  };
  expect_same(drawn({"lora dir"}, {{"-p", "red apple <lora:ink:0.8>"}}), drawn({"lora"}));
  expect_same(drawn({}, {{"-p", "qzv"}, {"--embedding", "{}/qzv.safetensors"}}), drawn({}));
  expect_same(drawn({}, {{"--text-encoder", "clip_l={}/text_encoder/model.safetensors"}}), drawn({"text encoder"}));
  expect_same(drawn({}, {{"--lora", R"({}/ink.safetensors:{"weight": 0.8, "schedule": {"0": 1}})"}}), drawn({"lora"}));
  expect_same(drawn({}, {{"--lora", R"({}/ink.safetensors:{"schedule": {"0": 0}})"}}), drawn({}));
  expect_same(drawn({}, {{"--lora", R"({}/ink.safetensors:{"mask": "{}/black.png"})"}}), drawn({}));
  if (GetParam() != "sdxl") return;
  expect_same(drawn({"refiner"}, {{"--refiner-start", "0.8"}}), drawn({"refiner"}));
}

TEST_P(GenerateOptions, WhatNeedsAnotherIsRefusedAlone) {
  auto expect_refused = [&](const std::map<std::string, std::string>& arguments, const std::string& says) {
    const auto& outcome = drawn({}, arguments);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_THAT(outcome.message, HasSubstr(says));
  };
  if (GetParam() != "sd-inpaint") {
    expect_refused({{"--strength", "0.5"}}, "--strength needs --image");
    expect_refused({{"--mask", "{}/mask.png"}}, "--mask needs --image");
    expect_refused({{"--mask-blur", "2"}}, "--mask-blur needs --mask");
    expect_refused({{"--only-masked", "2"}}, "--only-masked needs --mask");
    expect_refused({{"--mask-invert", ""}}, "--mask-invert needs --mask");
    expect_refused({{"--keep-unmasked", ""}}, "--keep-unmasked needs --mask");
    expect_refused({{"--no-keep-unmasked", ""}}, "--no-keep-unmasked needs --mask");
  }
  expect_refused({{"--refiner-start", "0.5"}}, "--refiner-start needs --refiner");
  expect_refused({{"-p", "apple <lora:ink:1>"}}, "--lora-dir");
  expect_refused({{"--fuse", ""}}, "--fuse: there is no LoRA to fuse");
  expect_refused({{"--keep-active-above", "10%"}}, "--keep-active-above is for --fuse");
  expect_refused({{"--lora", R"({}/ink.safetensors:{"images": [2]})"}}, "--count is 1");
  for (const char* start : {"0", "1", "1.5", "-0.3", "nan"})
    expect_refused({{"--refiner", "{}/refiner"}, {"--refiner-start", start}}, "--refiner-start");
}

TEST_P(GenerateOptions, ASizeOfAnotherModelIsRefused) {
  const bool sd3 = GetParam() == "sd3" || GetParam() == "sd35";
  const auto& wide =
      drawn({}, {{"--size", "100x16"}, {"--steps", "2"}, {"-p", "a long text " + std::string(400, 'x')}});
  EXPECT_EQ(wide.code, sd3 ? 2 : 0) << wide.message;
  if (sd3) {
    EXPECT_EQ(wide.message, "--size is 100x16. width and height must be at most 96, the largest that this model draws");
  }
  EXPECT_EQ(drawn({}, {{"--size", "96x16"}, {"--steps", "2"}}).code, 0);
  EXPECT_THAT(drawn({}, {{"--size", "17x16"}}).message,
              HasSubstr("--size is 17x16. width and height must be multiples"));
}

// What the model cannot draw is refused before the text is read: nothing is noted of a text that is too long.
TEST(Sizes, AreCheckedBeforeTheTextIsRead) {
  for (const auto& [name, width, says] :
       {std::tuple("sd3", 100, "the size is 100x16. width and height must be at most 96"),
        {"sd35", 100, "the size is 100x16. width and height must be at most 96"},
        {"amused-256", 17, "the size is 17x16. width and height must be multiples of 2"},
        {"amused-512", 18, "the size is 18x16. width and height must be multiples of 4"}}) {
    SCOPED_TRACE(name);
    auto pipe = tiny::open(name);
    std::string text, noted;
    for (int i = 0; i < 600; ++i) text += "owl ";
    CallOptions call{.height = 16, .width = width, .num_inference_steps = 1};
    call.callback_on_note = [&](const std::string& note) { noted += note; };
    EXPECT_THAT(error_of(ErrorKind::usage, [&] { (*pipe)(text, call); }), HasSubstr(says));
    EXPECT_EQ(noted, "");
    call.width = 16;
    (*pipe)(text, call);
    EXPECT_THAT(noted, HasSubstr("It does not read the end"));
  }
}

TEST(OptionNames, StandForTheArgumentsOfTheLibrary) {
  for (const auto& [library, command] :
       {std::pair("m: prediction_type is \"sample\", but X does not take one",
                  "m: --prediction-type is \"sample\", but X does not take one"),
        {"PNDMScheduler: prediction_type \"sample\" is not supported",
         "PNDMScheduler: --prediction-type \"sample\" is not supported"},
        {"scheduler is ddim, which cannot draw", "--scheduler is ddim, which cannot draw"},
        {"m: variant is \"x\", but a single file has no variants",
         "m: --variant is \"x\", but a single file has no variants"},
        {"Leave variant out, or give one", "Leave --variant out, or give one"},
        {"Give one of them as `variant`", "Give one of them as --variant"},
        {"allow a partial LoRA (--allow-partial, or PartialLora::allow)", "allow a partial LoRA (--allow-partial)"},
        {"a/prediction_type.png: no such file", "a/prediction_type.png: no such file"},
        {"the field \"prediction_type\" is unknown", "the field \"prediction_type\" is unknown"}})
    EXPECT_EQ(cli::in_option_names(library), command);
}

}  // namespace lora
