// Calls that are wrong, strange or hostile. Each ends with the right exit code, and says why.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "cli/command.h"
#include "cli/said.h"
#include "io/safetensors.h"
#include "lora/files.h"
#include "lora/image.h"
#include "lora/text.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// As a shell takes one word.
std::string word(const std::string& text) {
  return "'" + std::regex_replace(text, std::regex("'"), std::string("'\\''")) + "'";
}

// One tiny model, and LoRAs for it.
class StrangeCalls : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    files_ = new TemporaryFolder;
    auto pipe = tiny::open("sd");
    save_safetensors(tiny::factors(*pipe, "style", {"to_q", "q_proj"}, 2), *files_ / "style.safetensors");
    fs::create_directory(*files_ / "loras");
    fs::copy(*files_ / "style.safetensors", *files_ / "loras/style.safetensors");
    for (auto folder : {"char", "pose"}) {
      fs::create_directory(*files_ / "loras" / folder);
      fs::copy(*files_ / "style.safetensors", *files_ / "loras" / folder / "two.safetensors");
    }
    Image{8, 8, std::vector<uint8_t>(8 * 8 * 3, 255), {}}.save(*files_ / "white.png");
    files_->write("broken.safetensors", "broken");
  }
  static void TearDownTestSuite() { delete files_; }

  static std::string at(const std::string& name) { return (*files_ / name).string(); }
  static std::string model() { return tiny::folder("sd").string(); }
  static std::string lora(const std::string& weight) { return " --lora " + word(at("style.safetensors") + weight); }
  static std::string prompt(const std::string& text) { return " -p " + word(text); }
  // A call that draws one picture of 16x16 in one step, unless the arguments say otherwise.
  std::string draw(const std::string& arguments) const {
    auto call = "generate " + word(model()) + " " + arguments;
    const std::pair<const char*, std::string> defaults[] = {
        {" --steps ", "1"}, {" --size ", "16x16"}, {" -o ", word((out_ / "out.png").string())}};
    for (const auto& [option, value] : defaults)
      if (!contains(call, option)) call += option + value;
    return call;
  }
  std::string convert(const std::string& arguments) const {
    return "convert " + word(at("style.safetensors")) + " --to diffusers " + arguments + " -o " +
           word((out_ / "converted.safetensors").string());
  }
  std::vector<uint8_t> drawn(const std::string& arguments) const {
    auto result = lora_command(draw("--seed 1 --cfg 2 " + arguments));
    EXPECT_EQ(result.code, 0) << arguments << "\n" << result.err;
    return result.code ? std::vector<uint8_t>() : Image::load(out_ / "out.png").pixels;
  }

  TemporaryFolder out_;

 private:
  static inline TemporaryFolder* files_ = nullptr;
};

void expect_told(const Result& result, int code, const std::string& part, const std::string& call) {
  EXPECT_EQ(result.code, code) << call << "\n" << result.err;
  EXPECT_TRUE(contains(result.err, part)) << call << "\nwanted: " << part << "\n" << result.err;
  // In the words of the command, not in those of the library.
  for (auto name : {"guidance_scale", "num_inference_steps", "num_images", "mask_image", "prompt_2", "denoising_",
                    "clip_skip", "negative_prompt", "Exception", "json."})
    EXPECT_FALSE(contains(result.err, name)) << call << "\n" << result.err;
  EXPECT_LE(std::count(result.err.begin(), result.err.end(), '\n'), 3) << call << "\n" << result.err;
  EXPECT_FALSE(std::regex_search(result.err, std::regex("[0-9]{40}"))) << call << "\n" << result.err;
}

}  // namespace

TEST_F(StrangeCalls, AWrongCallIsRefusedWithCode2) {
  const std::string p = prompt("owl");
  const std::pair<std::string, const char*> calls[] = {
      {"drwa", "\"drwa\""},
      {"cache lits", "\"lits\""},
      {"generate", "MODEL"},
      {"generate " + word(model()), "--prompt"},
      {draw(p + " --steps x"), "--steps"},
      {draw(p + " --steps 1.5"), "--steps"},
      {draw(p + " --steps 0"), "1000"},
      {draw(p + " --count 0"), "--count"},
      {draw(p + " --cfg abc"), "--cfg"},
      {draw(p + " --cfg nan"), "--cfg is nan"},
      {draw(p + " --cfg inf"), "--cfg is inf"},
      {draw(p + " --seed 18446744073709551616"), "--seed 18446744073709551616"},
      {draw(p + " --seed -2"), "or -1 for a random one"},
      {draw(p + " --seed 1.5"), "--seed 1.5"},
      {draw(p + " --seed x"), "--seed x"},
      {draw(p + " --seed 18446744073709551615 --count 2"), "the largest seed"},
      {draw(p + " --size 64"), "WIDTHxHEIGHT"},
      {draw(p + " --size 0x64"), "WIDTHxHEIGHT"},
      {draw(p + " --size 64x64x64"), "WIDTHxHEIGHT"},
      {draw(p + " --size 99999999999x64"), "WIDTHxHEIGHT"},
      {draw(p + " --size 15x16"), "--size is 15x16"},
      {draw(p + " --size 100000x100000"), "--yes"},
      {draw(p + " --count 100000000"), "--count 100000000: must be 1 to 100000"},
      {draw(p + " --dtype int8"), "--dtype int8: no such dtype"},
      {draw(p + " --device toaster"), "--device toaster"},
      {draw(p + " --device mps"), "--device mps"},
      {draw(p + " --device meta"), "--device meta"},
      {draw(p + " --device cuda:99"), "--device is cuda:99"},
      {draw(p + " --scheduler euler_b"), "euler_ancestral"},
      {draw(p + " --strength 0.5"), "--strength needs --image"},
      {draw(p + " --image " + at("white.png") + " --strength 1.5"), "--strength is 1.5"},
      {draw(p + " --mask " + at("white.png")), "--mask needs --image"},
      {draw(p + " --clip-skip 99"), "--clip-skip is 99"},
      {draw(p + " --prompt-2 owl"), "does not take --prompt-2"},
      {draw(p + " -o picture.gif"), ".png, .jpg or .webp"},
      {draw(p + " -n 'bad <lora:style:0.5>'"), "--negative has the tag"},
      {draw(p + " --prompt-2 '<LYCO:style>'"), "--prompt-2 has the tag"},
      {draw(prompt("owl <lora:style:0.5")), "without its end"},
      {draw(prompt("owl <lora:style>")), "--lora-dir"},
      {draw(prompt("owl <lora:style:x>") + " --lora-dir " + at("loras")), "\"x\" is not a number"},
      {draw(prompt("owl <lora:style:1:2:3>") + " --lora-dir " + at("loras")), "3 weights"},
      {draw(prompt("owl <lora:style:1:lbw=1>") + " --lora-dir " + at("loras")), "\"lbw=1\" is not known"},
      {draw(prompt("owl <lora::1>") + " --lora-dir " + at("loras")), "names no LoRA"},
      {draw(prompt("owl <lora:two:1>") + " --lora-dir " + at("loras")), "char/two.safetensors, pose/two.safetensors"},
      {draw(p + " --lora ''"), "--lora: the value is empty"},
      {draw(p + " --lora :0.5"), "no file is named"},
      {draw(p + " --embedding toy.pt:"), "the token after the colon is empty"},
      {draw(p + " --embedding https://civitai.com/toy.pt"), "is a web address"},
      {draw(p + " --text-encoder clip_l"), "the form is NAME=PATH"},
      {draw(p + " --text-encoder clip_l=a --text-encoder clip_l=b"), "clip_l is given twice"},
      {draw(p + " --text-encoder clip_h=a"), "--text-encoder has \"clip_h\""},
      {draw(p + lora(":strong")), "the weight \"strong\" is not a number"},
      {draw(p + lora(":0,8")), "Write 0.8"},
      {draw(p + lora(":")), "the weight \"\" is not a number"},
      {draw(p + lora(":nan")), "not a number"},
      {draw(p + lora(":{\"unett\": 0}")), "\"unett\""},
      {draw(p + lora(":{\"shedule\": {\"0\": 1}}")), "\"shedule\""},
      {draw(p + lora(":{\"unet\": {\"dwn\": 1}}")), "the weight of \"style\" on unet: it does not have a part \"dwn\""},
      {draw(p + lora(":{\"unet\": \"x\"}")), "style.safetensors: the weight of a LoRA is \"x\""},
      {draw(p + lora(":{\"weight\": {\"unet\": null}}")), "style.safetensors: the weight of a LoRA is null"},
      {draw(p + lora(":{\"unet\": [[[[[[[[[[1]]]]]]]]]]}")), "style.safetensors: the weight of a LoRA is nested"},
      {draw(p + lora(":{\"unet\": 1, \"unet\": 2}")), "style.safetensors: the weight names \"unet\" twice"},
      {draw(p + lora(":{\"unet\": {\"up\": 1, \"up\": 1}}")), "style.safetensors: the weight names \"up\" twice"},
      {draw(p + lora(":{\"mask\": \"a.png\", \"mask\": \"b.png\"}")), "the weight names \"mask\" twice"},
      {draw(p + lora(":{\"schedule\": {\"0.5\": 1, \"0.50\": 0}}")), "the schedule has 0.5 twice"},
      {draw(p + lora(":{\"images\": []}")), "\"images\" must be a list of numbers"},
      {draw(p + lora(":{\"schedule\": {}}")), "\"schedule\" must be an object with numbers"},
      {draw(p + lora(":{\"unet\": 1")), "neither a number nor valid JSON"},
      {draw(p + " --lora https://huggingface.co/a/b/resolve/main/x/c.safetensors?download=true"),
       "give a/b/x/c.safetensors"},
      {draw(p + " --lora https://huggingface.co/a/b/blob/v2/c.safetensors:0.5"), "give a/b@v2/c.safetensors"},
      {draw(p + " --lora https://huggingface.co/a/b"), "give a/b."},
      {draw(p + " --lora https://civitai.com/api/download/models/1"), "Download the file first"},
      {"generate https://huggingface.co/a/b" + p, "give a/b."},
      {"inspect https://huggingface.co/a/b", "give a/b."},
      {"download https://huggingface.co/a/b", "give a/b."},
      {"convert " + at("style.safetensors") + " --to diffusers --dtype int8 -o " + at("x.safetensors"), "int8"},
      {convert("--dtype ''"), "--dtype: the value is empty"},
      {convert("--base ''"), "--base: the value is empty"},
      {draw(p + " --fuse --keep-active-above ''" + lora("")), "--keep-active-above: the value is empty"},
      {"inspect ''", "the value is empty"},
      {convert("--approximate --rank 0"), "--rank 0: at least 1 was expected"},
      {convert("--approximate --rank -3"), "--rank -3: at least 1 was expected"},
      {convert("--approximate --rank x"), "--rank"},
      {convert("--approximate --rank 99999999999999999999"), "--rank"},
      {convert("--approximate"), "--approximate needs --rank"},
      {convert("--rank 0"), "--rank needs --approximate"},
      {draw(p + " --threads 0"), "--threads"},
      {"forward " + model() + " --component brain --inputs " + at("style.safetensors") + " -o " + at("x.safetensors"),
       "text_encoder"},
  };
  for (const auto& [call, part] : calls) expect_told(lora_command(call), 2, part, call);
  EXPECT_TRUE(out_.names().empty());
}

TEST_F(StrangeCalls, AFailureEndsWithCode1) {
  const std::string p = prompt("owl");
  const std::pair<std::string, const char*> calls[] = {
      {"generate /no/model" + p, "/no/model"},
      {draw(p + " --lora /no/style.safetensors:0.5"), "/no/style.safetensors"},
      {draw(p + " --lora 'C:\\style.safetensors:0.5'"), "C:\\style.safetensors"},
      {draw(p + " --lora 'C:\\style.safetensors'"), "C:\\style.safetensors"},
      {draw(p + " --lora " + at("broken.safetensors")), "broken.safetensors"},
      {draw(p + " --image " + at("broken.safetensors")), "not a PNG, JPEG or WebP file"},
      {draw(p + " --image nowhere.png"), "nowhere.png"},
      {draw(prompt("<lora:style>") + " --lora-dir /no/folder"), "/no/folder"},
      {draw(prompt("<lora:stile>") + " --lora-dir " + at("loras")), "did you mean \"style\""},
      {draw(p + " -o /no/folder/x.png"), "no such folder"},
      {draw(p + " -o /proc/x.png"), "cannot be written"},
      {"forward " + model() + " --component unet --inputs " + at("style.safetensors") + " -o /proc/x",
       "cannot be written"},
      {"forward " + model() + " --component unet --inputs " + at("style.safetensors") + " -o " + at("x"),
       "there is no tensor"},
      {"fuse " + model() + lora("") + " -o /proc/x", "/proc/x"},
      {"fuse " + model() + lora("") + " -o " + at("white.png"), "white.png"},
      {"convert " + at("style.safetensors") + " --to peft -o /proc/x", "cannot be written"},
      {"convert " + at("style.safetensors") + " --to diffusers -o /no/folder/x.safetensors", "no such folder"},
      {"inspect " + at("broken.safetensors"), "broken.safetensors"},
  };
  for (const auto& [call, part] : calls) expect_told(lora_command(call), 1, part, call);
  EXPECT_TRUE(out_.names().empty());
}

TEST_F(StrangeCalls, EachRemarkIsSaid) {
  const std::string p = prompt("owl");
  std::string words;
  for (int i = 0; i < 80; ++i) words += "owl ";
  const std::pair<std::string, const char*> calls[] = {
      {p + " -n blue --cfg 1", "the negative prompt has no effect, because --cfg is 1"},
      {prompt(words + "tree") + " --prompt-syntax plain",
       "text_encoder reads 32 tokens of the prompt. It does not read the end: \"owl owl owl owl "},
      {p + " --prompt-syntax plain -n " + word(words), "32 tokens of the negative prompt"},
      {prompt("caf\xe9"), "the prompt \"caf\\xe9\" is not UTF-8"},
      {p + lora(":{\"text_encoder_2\": 0, \"unet\": 0.5}"), "text_encoder_2; it has: unet, text_encoder"},
      {p + lora(":{\"transformer\": 0}"), "transformer; it has: unet"},
      {prompt("<hypernet:x:1> owl"), "<hypernet:x:1> is read as words"},
  };
  for (const auto& [arguments, part] : calls) expect_told(lora_command(draw(arguments)), 0, part, arguments);
  auto quiet = lora_command(draw(p + " -n blue --cfg 2" + lora(":0.5")));
  EXPECT_FALSE(contains(quiet.err, "note")) << quiet.err;
}

TEST_F(StrangeCalls, EachTextEncoderTellsWhatItDoesNotRead) {
  std::string words;
  for (int i = 0; i < 300; ++i) words += "owl ";
  const std::pair<const char*, std::vector<std::string>> models[] = {
      {"sdxl", {"text_encoder reads 32", "text_encoder_2 reads 32"}},
      {"sd35", {"text_encoder reads 32", "text_encoder_2 reads 32", "text_encoder_3 reads 256"}},
      {"amused-256", {"text_encoder reads 32"}}};
  for (const auto& [name, parts] : models) {
    auto result =
        lora_command("generate " + tiny::folder(name).string() + prompt(words) +
                     " -n blue --cfg 1 --steps 1 --prompt-syntax plain -o " + word((out_ / "out.png").string()));
    EXPECT_EQ(result.code, 0) << result.err;
    for (const auto& part : parts) EXPECT_TRUE(contains(result.err, part)) << name << "\n" << result.err;
    EXPECT_TRUE(contains(result.err, "the negative prompt has no effect, because --cfg is 1")) << name << "\n"
                                                                                               << result.err;
    size_t notes = 0;
    for (size_t at = 0; (at = result.err.find("lora: note:", at)) != result.err.npos; ++at) ++notes;
    EXPECT_EQ(notes, parts.size() + 1) << result.err;
  }
}

TEST_F(StrangeCalls, SpellingsThatMeanTheSame) {
  const auto dir = " --lora-dir " + word(at("loras"));
  auto both = drawn(prompt("owl ") + lora(":0.5"));
  for (auto tag : {"<lora:style:0.5>", "<LORA:style:0.5>", "<lyco:style:0.5>", "<lora:style.safetensors:0.5>",
                   "<lora:./style:0.5>", "<lora:char/two:0.5>", "<lora:pose/two.safetensors:0.5>",
                   "<lora: style : 0.5 >", "<lora:style:0.5:0.5>"})
    EXPECT_EQ(drawn(prompt(std::string("owl ") + tag) + dir), both) << tag;
  auto apart = drawn(prompt("owl ") + lora(":{\"text_encoder\": 0.2, \"unet\": 0.9}"));
  EXPECT_NE(apart, both);
  for (auto tag : {"<lora:style:0.2:0.9>", "<lora:style:te=0.2:unet=0.9>", "<lora:style:unet=0.9:te=0.2>"})
    EXPECT_EQ(drawn(prompt(std::string("owl ") + tag) + dir), apart) << tag;
  EXPECT_EQ(drawn(prompt("owl <lora:style:te=0.5>") + dir), both) << "one number is for both";
  EXPECT_EQ(drawn(prompt("owl <lora:style>") + dir), drawn(prompt("owl ") + lora("")));

  // --lora takes one value, so that MODEL may stand behind it.
  auto result = lora_command("generate" + lora(":0.5") + " " + word(model()) + prompt("owl ") +
                             " --steps 1 --size 16x16 --seed 1 --cfg 2 -o " + (out_ / "b.png").string());
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(Image::load(out_ / "b.png").pixels, both);
}

TEST_F(StrangeCalls, Seeds) {
  std::set<std::string> seeds;
  for (auto seed : {"", "--seed -1", "--seed -1"}) {
    ASSERT_EQ(lora_command(draw(prompt("owl") + " " + seed)).code, 0);
    seeds.insert(said(Image::load(out_ / "out.png"), "seed"));
  }
  EXPECT_EQ(seeds.size(), 3u);
  ASSERT_EQ(lora_command(draw(prompt("owl") + " --seed 18446744073709551615")).code, 0);
  EXPECT_EQ(said(Image::load(out_ / "out.png"), "seed"), "18446744073709551615");
}

TEST_F(StrangeCalls, LinksAndEndingsBelowLoraDir) {
  TemporaryFolder dir;
  fs::create_directory(dir / "real");
  fs::copy(at("style.safetensors"), dir / "real/a.SAFETENSORS");
  fs::create_directory_symlink(at("loras"), dir / "disk2");
  fs::create_directory_symlink(dir.path(), dir / "real/round");
  auto want = drawn(prompt("owl ") + lora(":0.5"));
  for (auto name : {"a", "real/a", "style", "disk2/style", "char/two"})
    EXPECT_EQ(drawn(prompt(std::string("owl <lora:") + name + ":0.5>") + " --lora-dir " + word(dir.path().string())),
              want)
        << name;
}

TEST_F(StrangeCalls, StdoutThatCannotBeWrittenIsAFailure) {
  for (auto to : {">/dev/full", ">&-"}) {
    SCOPED_TRACE(to);
    auto err = (out_ / "err").string();
    auto run = [&](const std::string& arguments) {
      int status = std::system((std::string(LORA_COMMAND) + " " + arguments + " 2>" + err + " " + to).c_str());
      return WEXITSTATUS(status);
    };
    EXPECT_EQ(run(draw(prompt("owl"))), 1);
    EXPECT_TRUE(contains(read(err), "stdout cannot be written")) << read(err);
    EXPECT_EQ(Image::load(out_ / "out.png").width, 16) << "the picture is whole";
    EXPECT_EQ(run("inspect --json " + at("style.safetensors")), 1);
    EXPECT_EQ(run("--help"), 1);
    EXPECT_EQ(run("drwa"), 2);
  }
}

// ---- Hostile names ------------------------------------------------------------------------------------------------

namespace {

// A terminal escape, a line of its own, text that runs backwards, what shells and JSON must escape, and Latin-1.
const std::string kNames[] = {"a\x1b[31mred\x07\nlora: done\u202egpj\u009b2J'\"\\`$(x)", "caf\xe9 \x1b[2J"};

void expect_harmless(const std::string& text, const std::string& what) {
  for (size_t i = 0; i < text.size();) {
    auto end = text.find('\n', i);
    auto line = text.substr(i, end - i);
    EXPECT_EQ(line, printable(line)) << what;
    EXPECT_NE(line, "lora: done") << what;
    i = end == text.npos ? text.size() : end + 1;
  }
}

}  // namespace

TEST_F(StrangeCalls, HostileNamesOfFilesPassThroughEveryVerb) {
  for (const auto& name : kNames) {
    SCOPED_TRACE(printable(name));
    TemporaryFolder folder;
    auto path = [&](const std::string& ending) { return (folder.path() / (name + ending)).string(); };
    fs::copy(at("style.safetensors"), path(".safetensors"));
    fs::create_directory_symlink(model(), path(""));
    auto style = word(path(".safetensors"));

    auto drew = lora_command("generate " + word(path("")) + prompt(name) + " -n " + word(name) +
                             " --steps 1 --size 16x16 --json --lora " + word(path(".safetensors:0.5")) + " -o " +
                             word(path(".png")));
    ASSERT_EQ(drew.code, 0) << drew.err;
    expect_harmless(drew.out + drew.err, "generate");
    auto report = json::parse(drew.out);
    EXPECT_EQ(report["images"][0]["file"], valid_utf8(path(".png")));
    EXPECT_EQ(report["adapters"][0]["source"], valid_utf8(path(".safetensors")));
    auto picture = Image::load(path(".png"));
    EXPECT_EQ(printable(said(picture, "prompt")), printable(name));
    EXPECT_EQ(printable(said_loras(picture)), printable(path(".safetensors:0.5")));
    EXPECT_EQ(printable(said(picture, "model")), printable(path("")));
    for (const auto& [keyword, value] : picture.text) EXPECT_EQ(value, valid_utf8(value)) << keyword;

    if (name.find(':') == name.npos) {
      auto tagged =
          lora_command(draw(prompt("owl <lora:" + name + ":0.5>") + " --lora-dir " + word(folder.path().string())));
      EXPECT_EQ(tagged.code, 0) << tagged.err;
    }
    for (const auto& call : {"inspect " + style,
                             "inspect --json " + style,
                             "inspect " + style + " " + style,
                             "inspect --json " + style + " " + style,
                             "inspect " + style + " --model " + word(path("")),
                             "convert " + style + " --to kohya -o " + word(path("-kohya.safetensors")),
                             "inspect " + word(path(".none")),
                             "convert " + word(path(".png")) + " --to peft -o x",
                             "generate " + word(path(".none")) + prompt("owl"),
                             draw(prompt("owl") + " --scheduler " + word(name)),
                             draw(prompt("owl") + " --dtype " + word(name)),
                             draw(prompt("owl") + " --device " + word(name)),
                             draw(prompt("owl") + " --image " + word(path(".none"))),
                             draw(prompt("owl") + " --steps " + word(name)),
                             draw(prompt("owl") + " --lora " + word("x:" + name)),
                             word(name),
                             "download " + word(name),
                             "cache list --cache-dir " + word(folder.path().string()),
                             "cache list --json --cache-dir " + word(folder.path().string()),
                             "cache remove " + word(name) + " --cache-dir " + word(folder.path().string())}) {
      auto result = lora_command(call);
      expect_harmless(result.out + result.err, call);
      EXPECT_TRUE(result.code != 0 || !contains(call, "--json") || json::accept(result.out)) << call;
      EXPECT_TRUE(result.code == 0 || !result.err.empty()) << call;
    }
    // The paths of results are for scripts.
    auto plain =
        lora_command("generate " + word(path("")) + prompt("owl") + " --steps 1 --size 16x16 -o " + word(path(".png")));
    EXPECT_EQ(plain.out, path(".png") + "\n");
  }
}

TEST_F(StrangeCalls, HostileKeysAndMetadataDoNothingToATerminal) {
  const std::string bad = "x\x1b[2J\nlora: done\u202e";
  auto tensors = load_state_dict(at("style.safetensors"));
  tensors.set("unet." + bad + ".lora_A.weight", at::ones({2, 2}));
  tensors.set("unet." + bad + ".lora_B.weight", at::ones({2, 2}));
  TemporaryFolder folder;
  auto file = (folder / "a.safetensors").string();
  std::vector<PendingTensor> pending;
  for (const auto& [key, tensor] : tensors)
    pending.push_back({key, tensor.scalar_type(), tensor.sizes().vec(), [t = tensor] { return t; }});
  save_safetensors(pending,
                   {{bad, bad}, {"ss_base_model_version", bad}, {"ss_network_module", bad}, {"sshs_model_hash", bad}},
                   file);
  for (const auto& call : {"inspect " + file, "inspect --json " + file, "inspect " + file + " --model " + model(),
                           "inspect " + file + " " + file, "inspect --json " + file + " " + file,
                           "convert " + file + " --to diffusers -o " + (folder / "b.safetensors").string(),
                           draw(prompt("owl") + " --lora " + file),
                           "fuse " + model() + " --lora " + file + " -o " + (folder / "fused").string()}) {
    auto result = lora_command(call);
    EXPECT_FALSE(result.out.empty() && result.err.empty()) << call;
    expect_harmless(result.out + result.err, call);
  }
}

}  // namespace lora
