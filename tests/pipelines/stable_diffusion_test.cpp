// From prompt to pixels with the embedded model, against diffusers.
#include <ATen/ATen.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "lora/pipelines.h"
#include "support/compare.h"

namespace lora {

namespace {

using nlohmann::json;

const json& reference() {
  static const json cases = json::parse(std::ifstream(test_data() / "pipelines" / "cases.json"));
  return cases;
}

const StateDict& expected() {
  static const auto tensors = load_state_dict(test_data() / "pipelines" / "expected.safetensors");
  return tensors;
}

StableDiffusionPipeline embedded(Dtype dtype = at::kFloat) {
  return StableDiffusionPipeline::from_pretrained(embedded_models() / "tiny", {.dtype = dtype});
}

Prompts prompts(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  Prompts all;
  for (const auto& text : value) all.push_back(text);
  return all;
}

std::vector<uint64_t> seeds(const json& value) {
  if (value.is_array()) return value.get<std::vector<uint64_t>>();
  return {value.get<uint64_t>()};
}

CallOptions options_of(const json& row) {
  CallOptions options;
  if (row.contains("negative_prompt")) options.negative_prompt = prompts(row["negative_prompt"]);
  options.height = row.value("height", 0);
  options.width = row.value("width", 0);
  options.num_inference_steps = row["num_inference_steps"];
  options.guidance_scale = row["guidance_scale"];
  options.guidance_rescale = row.value("guidance_rescale", 0.0);
  options.num_images_per_prompt = row.value("num_images_per_prompt", 1);
  options.eta = row.value("eta", 0.0);
  options.seed = seeds(row["seed"]);
  if (row.contains("clip_skip")) options.clip_skip = row["clip_skip"].get<int>();
  if (row.contains("latents")) options.latents = expected().at(row["latents"]);
  if (row.contains("cross_attention_kwargs"))
    options.cross_attention_kwargs.scale = row["cross_attention_kwargs"]["scale"];
  return options;
}

void load_adapters(StableDiffusionPipeline& pipe, const json& row) {
  std::vector<std::string> names;
  std::vector<LoraScale> weights;
  for (const auto& adapter : row["adapters"]) {
    std::string name = adapter["adapter_name"];
    pipe.load_lora_weights(embedded_models() / "loras" / adapter["file"].get<std::string>(), {.adapter_name = name});
    if (row.contains("active") && row["active"] != json::array({name})) continue;
    names.push_back(name);
    weights.push_back(adapter["weight"].get<double>());
  }
  pipe.set_adapters(names, weights);
  if (row.value("fused", false)) pipe.fuse_lora({.lora_scale = row.value("lora_scale", 1.0)});
}

int largest_difference(const std::vector<Image>& images, const Tensor& wanted) {
  int largest = 0;
  EXPECT_EQ(int64_t(images.size()), wanted.size(0));
  for (size_t i = 0; i < images.size(); ++i) {
    auto pixels = wanted[int64_t(i)].contiguous();
    EXPECT_EQ(int64_t(images[i].pixels.size()), pixels.numel());
    auto* bytes = pixels.data_ptr<uint8_t>();
    for (size_t k = 0; k < images[i].pixels.size(); ++k)
      largest = std::max(largest, std::abs(int(images[i].pixels[k]) - int(bytes[k])));
  }
  return largest;
}

}  // namespace

TEST(StableDiffusion, DrawsWhatDiffusersDraws) {
  auto pipe = embedded();
  auto own_scheduler = pipe.scheduler;
  for (auto row : reference()["cases"]) {
    SCOPED_TRACE(row["name"].get<std::string>());
    for (const auto& [name, value] : reference()["defaults"].items())
      if (!row.contains(name)) row[name] = value;
    pipe.scheduler = own_scheduler;
    if (row.contains("scheduler")) {
      auto config = json::parse(own_scheduler->config());
      config.update(row["scheduler"]["config"]);
      pipe.scheduler = Scheduler::from_config(config.dump(), row["scheduler"]["class"]);
    }
    if (row.contains("adapters")) load_adapters(pipe, row);
    auto latents = pipe.generate_latents(prompts(row["prompt"]), options_of(row));
    EXPECT_LE(distance(latents, expected().at(row["outputs"]["latents"])), 1e-4);
    EXPECT_LE(largest_difference(pipe.decode_latents(latents), expected().at(row["outputs"]["images"])),
              reference()["pixel_tolerance"].get<int>());
    pipe.unfuse_lora();
    pipe.unload_lora_weights();
  }
}

TEST(StableDiffusion, EveryImageIsTheOneItsSeedGivesAlone) {
  auto pipe = embedded();
  CallOptions options{.num_inference_steps = 3, .num_images_per_prompt = 2, .seed = {7, 8}};
  auto both = pipe.generate_latents("rocket", options);
  options.num_images_per_prompt = 1;
  options.seed = {8};
  expect_close(both[1], pipe.generate_latents("rocket", options)[0], 1e-5);
}

TEST(StableDiffusion, CallbackSeesEveryStepAndCanCancel) {
  auto pipe = embedded();
  int steps = 0;
  CallOptions options{.num_inference_steps = 4, .seed = {0}};
  options.callback_on_step_end = [&](const StepEnd& end) {
    EXPECT_EQ(end.step, steps++);
    EXPECT_EQ(end.num_steps, 4);
    EXPECT_EQ(end.latents.sizes(), (std::vector<int64_t>{1, 4, 16, 16}));
    return steps < 3;
  };
  EXPECT_NE(error_of(ErrorKind::cancelled, [&] { pipe("rocket", options); }).find("step 3 of 4"), std::string::npos);
  EXPECT_EQ(steps, 3);
}

TEST(StableDiffusion, CallsFromSeveralThreadsAreIndependent) {
  auto pipe = embedded();
  pipe.load_lora_weights(embedded_models() / "loras/ink.safetensors", {.adapter_name = "ink"});
  CallOptions options{.num_inference_steps = 2, .seed = {0}};
  auto with = pipe.generate_latents("rocket", options);
  pipe.disable_lora();
  auto without = pipe.generate_latents("rocket", options);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      for (int k = 0; k < 3; ++k) {
        auto got = pipe.generate_latents("rocket", options);
        wrong += !at::equal(got, with) && !at::equal(got, without);
      }
    });
  for (int k = 0; k < 50; ++k) k % 2 ? pipe.disable_lora() : pipe.enable_lora();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0) << "a run mixed two states";
}

TEST(StableDiffusion, ArgumentsOutOfRangeAreUsageErrors) {
  auto pipe = embedded();
  auto message = [&](CallOptions options, ErrorKind kind = ErrorKind::usage) {
    return error_of(kind, [&] { pipe("rocket", options); });
  };
  EXPECT_NE(message({.height = 65}).find("multiples of 4"), std::string::npos);
  EXPECT_NE(message({.num_inference_steps = 0}).find("1000"), std::string::npos);
  EXPECT_NE(message({.num_inference_steps = 1001}).find("1000"), std::string::npos);
  message({.num_images_per_prompt = 0});
  EXPECT_NE(message({.num_images_per_prompt = 3, .seed = {1, 2}}).find("2 seeds for 3 images"), std::string::npos);
  message({.negative_prompt = {"a", "b"}});
  message({.latents = at::zeros({1, 4, 2, 2})}, ErrorKind::bad_shape);
  error_of(ErrorKind::usage, [&] { pipe(Prompts()); });
}

TEST(StableDiffusion, OneValueIsForAllAndSeveralAreOneForEach) {
  auto pipe = embedded();
  auto draw = [&](const Prompts& prompt, const CallOptions& options) { return pipe.generate_latents(prompt, options); };
  const auto image = pipe("rocket", {.num_inference_steps = 1, .seed = 7}).front();
  TemporaryFolder folder;
  image.save(folder / "a.png");
  image.save(folder / "mask.png");

  auto seven = draw("rocket", {.num_inference_steps = 1, .seed = 7});
  EXPECT_TRUE(at::equal(seven, draw(std::string("rocket"), {.num_inference_steps = 1, .seed = {7}})));
  auto both = draw({"rocket", "rocket"}, {.num_inference_steps = 1, .seed = {7, 8}});
  EXPECT_LE(distance(both.slice(0, 0, 1), seven), 1e-4);

  CallOptions one{.image = Image::load(folder / "a.png"),
                  .mask_image = Image::load(folder / "mask.png"),
                  .num_inference_steps = 1,
                  .negative_prompt = "penguin",
                  .seed = 7};
  auto each = one;
  each.image = {image};
  each.mask_image = std::vector<Image>{image};
  each.negative_prompt = std::vector<std::string>{"penguin"};
  each.seed = std::vector<uint64_t>{7};
  EXPECT_TRUE(at::equal(draw("rocket", one), draw("rocket", each)));
}

TEST(StableDiffusion, BadModelsAreNamed) {
  TemporaryFolder folder;
  auto open = [&](const std::filesystem::path& path, PipelineOptions options = {}) {
    StableDiffusionPipeline::from_pretrained(path, options);
  };
  error_of(ErrorKind::not_found, [&] { open(folder / "none"); });
  EXPECT_NE(error_of(ErrorKind::not_found, [&] { open(folder.path()); }).find("model_index.json"), std::string::npos);
  std::ofstream(folder / "model_index.json") << R"({"_class_name": "FluxPipeline"})";
  auto flux = error_of(ErrorKind::unsupported, [&] { open(folder.path()); });
  EXPECT_NE(flux.find("the pipeline is of class FluxPipeline, which is not supported"), std::string::npos) << flux;
  EXPECT_NE(flux.find("SD 3, SDXL, "), std::string::npos) << flux;
  EXPECT_NE(
      error_of(ErrorKind::usage, [&] { open(embedded_models() / "tiny", {.scheduler = "karras9"}); }).find("euler"),
      std::string::npos);
}

TEST(StableDiffusion, SchedulersWithPythonsInfinitiesAreSavedAndRead) {
  auto pipe = StableDiffusionPipeline::from_pretrained(embedded_models() / "tiny", {.scheduler = "dpmpp_2m"});
  TemporaryFolder folder;
  pipe.save_pretrained(folder / "saved");
  EXPECT_EQ(StableDiffusionPipeline::from_pretrained(folder / "saved").scheduler->config(), pipe.scheduler->config());
}

TEST(StableDiffusion, AModelIsSavedOverItself) {
  TemporaryFolder folder;
  std::filesystem::copy(embedded_models() / "tiny", folder / "m", std::filesystem::copy_options::recursive);
  for (auto name : {"m/notes.txt", "m/unet/notes.txt"}) folder.write(name, "mine");
  folder.write("m/unet/diffusion_pytorch_model-00001-of-00002.safetensors", "old");
  folder.write("m/text_encoder/pytorch_model.fp16.bin", "old");
  folder.write("m/tokenizer/added_tokens.json", "{}");
  std::filesystem::create_directory(folder / "m/safety_checker");
  folder.write("m/safety_checker/model.safetensors", "mine");
  auto pipe = StableDiffusionPipeline::from_pretrained(folder / "m");
  pipe.load_lora_weights(embedded_models() / "loras/neon.safetensors");
  pipe.fuse_lora();
  pipe.save_pretrained(folder / "elsewhere");
  pipe.save_pretrained(folder / "m");
  pipe.unfuse_lora();  // the pipeline keeps the files that it was opened from
  auto base = StableDiffusionPipeline::from_pretrained(embedded_models() / "tiny");
  for (const auto& [name, tensor] : pipe.unet.state_dict())
    EXPECT_TRUE(same_bits(tensor, base.unet.state_dict().at(name))) << name;
  auto bytes = [](const std::filesystem::path& file) {
    return std::string(std::istreambuf_iterator<char>(std::ifstream(file).rdbuf()), {});
  };
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / "elsewhere"))
    if (entry.is_regular_file()) {
      auto name = entry.path().lexically_relative(folder / "elsewhere");
      EXPECT_TRUE(bytes(entry.path()) == bytes(folder / "m" / name)) << name;
    }
  for (auto name : {"notes.txt", "unet/notes.txt", "safety_checker/model.safetensors"})
    EXPECT_EQ(bytes(folder / "m" / name), "mine") << name;
  for (auto name : {"unet/diffusion_pytorch_model-00001-of-00002.safetensors", "text_encoder/pytorch_model.fp16.bin"})
    EXPECT_FALSE(std::filesystem::exists(folder / "m" / name)) << name;
  EXPECT_EQ(folder.names().size(), 2u);
}

TEST(StableDiffusion, SavedFoldersLoadToTheSamePicture) {
  auto pipe = embedded(at::kHalf);
  EXPECT_EQ(stored_dtype(embedded_models() / "tiny"), at::kHalf);
  pipe.load_lora_weights(embedded_models() / "loras/neon.safetensors");
  pipe.fuse_lora();
  TemporaryFolder folder;
  pipe.save_pretrained(folder / "fused");
  CallOptions options{.num_inference_steps = 2, .seed = {0}};
  auto again = StableDiffusionPipeline::from_pretrained(folder / "fused", {.dtype = at::kHalf});
  for (const auto& [name, tensor] : pipe.unet.state_dict())
    EXPECT_TRUE(same_bits(tensor, again.unet.state_dict().at(name))) << name;
  EXPECT_TRUE(at::equal(pipe.generate_latents("rocket", options), again.generate_latents("rocket", options)));
}

}  // namespace lora
