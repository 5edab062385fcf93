// A VAE in place of a model's own (PipelineOptions::vae), against the folder or checkpoint that has it in place.
#include <gmock/gmock.h>

#include "pipelines/checkpoints.h"

namespace lora {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";

// The folder of a tiny pipeline with another VAE in place.
fs::path with_other_vae(const std::string& name, const TemporaryFolder& folder) {
  const auto model = folder / (name + "-other");
  fs::copy(tiny::folder(name), model, fs::copy_options::recursive);
  StateDict other;
  for (const auto& [key, t] : load_state_dict(tiny::folder(name) / "vae" / kWeights))
    other.set(key, reference::weight("other." + key, t.sizes()));
  save_safetensors(other, model / "vae" / kWeights);
  return model;
}

std::vector<uint8_t> drawn(const fs::path& model, const fs::path& vae, const CallOptions& options) {
  auto pipe = DiffusionPipeline::from_pretrained(model, {.dtype = at::kFloat, .vae = vae});
  return (*pipe)("red apple", options).front().pixels;
}

constexpr const char* kPrefix = "first_stage_model.";

std::string refused(ErrorKind kind, const fs::path& model, const fs::path& vae) {
  return error_of(kind, [&] { DiffusionPipeline::from_pretrained(model, {.vae = vae}); });
}

}  // namespace

TEST(GivenVae, AFolderDrawsWithItAsTheModelThatHasIt) {
  TemporaryFolder folder;
  for (const std::string name : {"sd", "sd-inpaint", "sdxl", "sd3"}) {
    SCOPED_TRACE(name);
    const auto model = tiny::folder(name), other = with_other_vae(name, folder);
    CallOptions text{.num_inference_steps = 2, .seed = {1}}, picture = text;
    picture.image = tiny::picture("vae", {32, 32});
    picture.mask_image = tiny::picture("mask", {32, 32});
    for (const auto& options : name == "sd-inpaint" ? std::vector{picture} : std::vector{text, picture}) {
      const auto wanted = drawn(other, {}, options);
      EXPECT_NE(drawn(model, {}, options), wanted);
      EXPECT_EQ(drawn(model, other / "vae", options), wanted);             // a folder
      EXPECT_EQ(drawn(model, other / "vae" / kWeights, options), wanted);  // a file with diffusers' names
    }
    // Without a VAE of its own.
    const auto without = folder / (name + "-without");
    fs::copy(model, without, fs::copy_options::recursive);
    fs::remove_all(without / "vae");
    EXPECT_THAT(refused(ErrorKind::not_found, without, {}), HasSubstr("the folder vae is missing. Give one as vae"));
    EXPECT_EQ(drawn(without, other / "vae", picture), drawn(other, {}, picture));
    auto index = json::parse(std::ifstream(without / "model_index.json"));
    index.erase("vae");
    tiny::write(without / "model_index.json", index);
    EXPECT_THAT(refused(ErrorKind::bad_file, without, {}), HasSubstr("has no VAE. Give one as vae"));
    EXPECT_EQ(drawn(without, other / "vae", picture), drawn(other, {}, picture));
    // It is saved with the model.
    DiffusionPipeline::from_pretrained(model, {.dtype = at::kFloat, .vae = other / "vae"})
        ->save_pretrained(folder / (name + "-saved"));
    EXPECT_EQ(drawn(folder / (name + "-saved"), {}, picture), drawn(other, {}, picture));
  }
}

TEST(GivenVae, ACheckpointHasItAsTheCheckpointThatHasItInside) {
  TemporaryFolder folder;
  fs::copy(test_data() / "tokenizers" / "t5", folder / "tokenizer_3");
  for (const std::string kind : {"sd1", "sd2", "sdxl", "sdxl_refiner", "sd3"}) {
    SCOPED_TRACE(kind);
    auto file = [&](const char* what) { return folder / (kind + what + ".safetensors"); };
    const auto other = tiny::checkpoint(kind, kPrefix, "other.");
    save_safetensors(tiny::checkpoint(kind), file(""));
    save_safetensors(tiny::without(tiny::checkpoint(kind), kPrefix), file("-without"));
    save_safetensors(other, file("-other"));
    save_safetensors(tiny::below(other, kPrefix), file("-vae"));
    StateDict prefixed;
    for (const auto& [name, t] : tiny::below(other, kPrefix)) prefixed.set(kPrefix + name, t);
    save_safetensors(prefixed, file("-vae-prefixed"));
    auto wanted = DiffusionPipeline::from_pretrained(file("-other"), {.dtype = at::kFloat});
    wanted->save_pretrained(folder / (kind + "-folder"));
    const auto vae_folder = folder / (kind + "-folder") / "vae";
    for (const auto& vae : {file("-vae"), file("-vae-prefixed"), vae_folder, vae_folder / kWeights})
      for (const auto& model : {file(""), file("-without"), folder / (kind + "-folder")}) {
        SCOPED_TRACE(vae.string() + " in " + model.string());
        auto pipe = DiffusionPipeline::from_pretrained(model, {.dtype = at::kFloat, .vae = vae});
        tiny::expect_same(*pipe->autoencoder().model, *wanted->autoencoder().model);
        EXPECT_TRUE(pipe->notes().empty());
      }
    EXPECT_THAT(refused(ErrorKind::bad_file, file("-without"), {}), HasSubstr("has no VAE. Give one as vae"));
    // A whole checkpoint gives its VAE. The rest of it is a note.
    auto pipe = DiffusionPipeline::from_pretrained(file("-without"), {.dtype = at::kFloat, .vae = file("-other")});
    tiny::expect_same(*pipe->autoencoder().model, *wanted->autoencoder().model);
    EXPECT_EQ(pipe->notes().size(), 1u);
  }
}

TEST(GivenVae, TrainingBuffersOfItsFileArePassedOver) {
  TemporaryFolder folder;
  auto vae = tiny::below(tiny::checkpoint("sd1"), kPrefix);
  for (const char* name : {"loss.logvar", "loss.discriminator.main.0.weight", "model_ema.decay"})
    vae.set(name, at::ones({1}));
  save_safetensors(vae, folder / "vae.safetensors");
  save_safetensors(tiny::checkpoint("sd1"), folder / "model.safetensors");
  auto pipe = DiffusionPipeline::from_pretrained(folder / "model.safetensors", {.vae = folder / "vae.safetensors"});
  EXPECT_TRUE(pipe->notes().empty());
  vae.set("encoder.more", at::ones({1}));
  save_safetensors(vae, folder / "vae.safetensors");
  pipe = DiffusionPipeline::from_pretrained(folder / "model.safetensors", {.vae = folder / "vae.safetensors"});
  EXPECT_THAT(pipe->notes(), testing::ElementsAre(HasSubstr("encoder.more")));
}

TEST(GivenVae, TheVariantIsReadWhereItHasOne) {
  TemporaryFolder folder;
  const auto other = with_other_vae("sd", folder);
  const auto model = folder / "model";
  fs::copy(tiny::folder("sd"), model, fs::copy_options::recursive);
  fs::copy(model / "unet" / kWeights, model / "unet" / "diffusion_pytorch_model.fp16.safetensors");
  auto open = [&] {
    return DiffusionPipeline::from_pretrained(model, {.dtype = at::kFloat, .variant = "fp16", .vae = other / "vae"});
  };
  EXPECT_THAT(open()->notes(), testing::Contains(HasSubstr("vae: no weights of variant \"fp16\"")));
  auto wanted = DiffusionPipeline::from_pretrained(other, {.dtype = at::kFloat});
  tiny::expect_same(*open()->autoencoder().model, *wanted->autoencoder().model);
  fs::rename(other / "vae" / kWeights, other / "vae" / "diffusion_pytorch_model.fp16.safetensors");
  tiny::expect_same(*open()->autoencoder().model, *wanted->autoencoder().model);
}

TEST(GivenVae, OneOfAnotherFamilyIsRefusedByName) {
  TemporaryFolder folder;
  auto vae_of = [](const char* name) { return tiny::folder(name) / "vae"; };
  EXPECT_THAT(refused(ErrorKind::unsupported, tiny::folder("sd"), vae_of("sd3")),
              HasSubstr("16 latent channels, but " + tiny::folder("sd").string() + " has 4"));
  EXPECT_THAT(refused(ErrorKind::unsupported, tiny::folder("sd3"), vae_of("sdxl")),
              HasSubstr("4 latent channels, but " + tiny::folder("sd3").string() + " has 16"));
  EXPECT_THAT(refused(ErrorKind::unsupported, tiny::folder("sd-inpaint"), vae_of("sdxl")),
              HasSubstr("its scaling_factor is 0.13025, as of Stable Diffusion XL; that of"));
  EXPECT_THAT(refused(ErrorKind::unsupported, tiny::folder("sdxl"), vae_of("sd")),
              HasSubstr("0.18215, as of Stable Diffusion 1.x and 2.x; that of"));
  // A file has the model's own factor, but not its channels.
  EXPECT_THAT(refused(ErrorKind::unsupported, tiny::folder("sd"), vae_of("sd3") / kWeights),
              HasSubstr("16 latent channels"));
  EXPECT_THAT(refused(ErrorKind::usage, tiny::folder("amused-256"), vae_of("sd")),
              HasSubstr("AmusedPipeline has a VQ model in its place"));

  EXPECT_THAT(refused(ErrorKind::not_found, tiny::folder("sd"), folder / "nowhere"), HasSubstr("nowhere"));
  EXPECT_THAT(refused(ErrorKind::not_found, tiny::folder("sd"), "owner/name"), HasSubstr("lora download"));
  EXPECT_THAT(refused(ErrorKind::not_found, tiny::folder("sd"), tiny::folder("sd")), HasSubstr("no config.json"));
  EXPECT_THAT(refused(ErrorKind::unsupported, tiny::folder("sd"),
                      tiny::folder("sd") / "unet" / "diffusion_pytorch_model.safetensors"),
              HasSubstr("not a VAE of Stable Diffusion"));
  auto config = json::parse(std::ifstream(vae_of("sd") / "config.json"));
  fs::copy(vae_of("sd"), folder / "vae", fs::copy_options::recursive);
  for (const auto& [field, value] : std::map<std::string, json>{{"latent_channels", "4"}, {"scaling_factor", "big"}}) {
    auto wrong = config;
    wrong[field] = value;
    tiny::write(folder / "vae" / "config.json", wrong);
    EXPECT_THAT(refused(ErrorKind::bad_file, tiny::folder("sd"), folder / "vae"), HasSubstr(field));
  }
  auto other_class = config;
  other_class["_class_name"] = "AutoencoderTiny";
  tiny::write(folder / "vae" / "config.json", other_class);
  EXPECT_THAT(refused(ErrorKind::unsupported, tiny::folder("sd"), folder / "vae"),
              HasSubstr("is of class AutoencoderTiny. StableDiffusionPipeline supports only AutoencoderKL"));
  tiny::write(folder / "vae" / "config.json", json::array());
  EXPECT_THAT(refused(ErrorKind::bad_file, tiny::folder("sd"), folder / "vae"), HasSubstr("config.json"));
}

}  // namespace lora
