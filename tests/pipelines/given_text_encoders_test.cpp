// Text encoders in place of a model's own (PipelineOptions::text_encoders), against the model that has them in place.
#include <gmock/gmock.h>

#include "pipelines/checkpoints.h"

namespace lora {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;
using Paths = std::map<std::string, fs::path>;

constexpr const char* kWeights = "model.safetensors";

std::vector<uint8_t> drawn(const fs::path& model, const Paths& text_encoders = {}) {
  auto pipe = DiffusionPipeline::from_pretrained(model, {.dtype = at::kFloat, .text_encoders = text_encoders});
  return (*pipe)("red apple", {.num_inference_steps = 2, .seed = {1}}).front().pixels;
}

// The folder of a tiny pipeline with other text encoders in place.
fs::path with_others(const std::string& name, const TemporaryFolder& folder) {
  const auto model = folder / (name + "-other");
  fs::copy(tiny::folder(name), model, fs::copy_options::recursive);
  for (const auto& entry : fs::directory_iterator(model)) {
    if (!entry.path().filename().string().starts_with("text_encoder")) continue;
    StateDict other;
    for (const auto& [key, t] : load_state_dict(entry.path() / kWeights))
      other.set(key, reference::weight("other." + key, t.sizes()));
    // As the first text encoder of files for Stable Diffusion 3.
    if (name.starts_with("sd3") && entry.path().filename() == "text_encoder")
      other.set("text_projection.weight", at::eye(other.at("text_projection.weight").size(0)));
    save_safetensors(other, entry.path() / kWeights);
  }
  return model;
}

std::string refused(ErrorKind kind, const fs::path& model, const Paths& text_encoders) {
  return error_of(kind, [&] { DiffusionPipeline::from_pretrained(model, {.text_encoders = text_encoders}); });
}

// The text encoders of each kind of checkpoint: the prefix of their tensors, by component.
struct Kind {
  const char* name;
  std::map<std::string, std::string> prefixes;
  const char* all;  // what all of them begin with
};
const std::vector<Kind> kKinds{
    {"sd1", {{"clip_l", "cond_stage_model.transformer."}}, "cond_stage_model."},
    {"sd2", {{"text_encoder", "cond_stage_model.model."}}, "cond_stage_model."},
    {"sdxl",
     {{"clip_l", "conditioner.embedders.0.transformer."}, {"clip_g", "conditioner.embedders.1.model."}},
     "conditioner."},
    {"sdxl_refiner", {{"clip_g", "conditioner.embedders.0.model."}}, "conditioner."},
    {"sd3",
     {{"text_encoder", "text_encoders.clip_l.transformer."},
      {"text_encoder_2", "text_encoders.clip_g.transformer."},
      {"t5xxl", "text_encoders.t5xxl.transformer."}},
     "text_encoders."}};

}  // namespace

TEST(GivenTextEncoders, DrawAsTheModelThatHasThem) {
  TemporaryFolder folder;
  for (const std::string name : {"sd", "sdxl", "sd3", "sd35", "amused-256"}) {
    SCOPED_TRACE(name);
    const auto model = tiny::folder(name), other = with_others(name, folder);
    const auto wanted = drawn(other);
    EXPECT_NE(drawn(model), wanted);
    Paths folders, files;
    for (const auto& entry : fs::directory_iterator(other))
      if (const auto component = entry.path().filename().string(); component.starts_with("text_encoder")) {
        folders[component] = entry.path();
        files[component] = entry.path() / kWeights;
      }
    EXPECT_EQ(drawn(model, folders), wanted);
    EXPECT_EQ(drawn(model, files), wanted);
    // The model may have none of its own.
    const auto without = folder / (name + "-without");
    fs::copy(model, without, fs::copy_options::recursive);
    auto index = json::parse(std::ifstream(without / "model_index.json"));
    for (const auto& [component, path] : folders) {
      fs::remove_all(without / component);
      index.erase(component);
    }
    tiny::write(without / "model_index.json", index);
    EXPECT_EQ(drawn(without, folders), wanted);
    EXPECT_THAT(refused(ErrorKind::bad_file, without, {}), HasSubstr(". Give one as text_encoders"));
    // They are saved with the model.
    DiffusionPipeline::from_pretrained(model, {.dtype = at::kFloat, .text_encoders = files})
        ->save_pretrained(folder / (name + "-saved"));
    EXPECT_EQ(drawn(folder / (name + "-saved")), wanted);
  }
}

TEST(GivenTextEncoders, ACheckpointHasThemAsTheCheckpointThatHasThemInside) {
  TemporaryFolder folder;
  fs::copy(test_data() / "tokenizers" / "t5", folder / "tokenizer_3");
  for (const auto& kind : kKinds) {
    SCOPED_TRACE(kind.name);
    auto file = [&](const std::string& what) { return folder / (kind.name + what + ".safetensors"); };
    const auto other = tiny::checkpoint(kind.name, kind.all, "other.");
    save_safetensors(tiny::checkpoint(kind.name), file(""));
    save_safetensors(tiny::without(other, kind.all), file("-without"));
    save_safetensors(other, file("-other"));
    Paths given;
    for (const auto& [name, prefix] : kind.prefixes) {
      given[name] = file("-" + name);
      save_safetensors(tiny::below(other, prefix), given[name]);
    }
    auto wanted = DiffusionPipeline::from_pretrained(file("-other"), {.dtype = at::kFloat});
    for (const auto& model : {file(""), file("-without")}) {
      SCOPED_TRACE(model.string());
      auto pipe = DiffusionPipeline::from_pretrained(model, {.dtype = at::kFloat, .text_encoders = given});
      EXPECT_STREQ(pipe->class_name(), wanted->class_name());
      ASSERT_EQ(pipe->models().size(), wanted->models().size());
      for (size_t i = 1; i < pipe->models().size(); ++i) {
        SCOPED_TRACE(pipe->models()[i].name);
        tiny::expect_same(*pipe->models()[i].model, *wanted->models()[i].model);
      }
      EXPECT_THAT(pipe->notes(), IsEmpty());
    }
    EXPECT_THAT(refused(ErrorKind::bad_file, file("-without"), {}), HasSubstr("the checkpoint has no text_encoder"));
  }
}

TEST(GivenTextEncoders, T5CanBeAdded) {
  TemporaryFolder folder;
  const auto model = folder / "with-t5", t5 = model / "text_encoder_3";
  fs::copy(tiny::folder("sd3"), model, fs::copy_options::recursive);
  fs::copy(tiny::folder("sd35") / "text_encoder_3", t5);
  fs::copy(tiny::folder("sd35") / "tokenizer_3", model / "tokenizer_3");
  // No tensor gives this field. Files get the published value.
  auto config = json::parse(std::ifstream(t5 / "config.json"));
  config["relative_attention_max_distance"] = 128;
  tiny::write(t5 / "config.json", config);
  auto index = json::parse(std::ifstream(model / "model_index.json"));
  index["text_encoder_3"] = {"transformers", "T5EncoderModel"};
  index["tokenizer_3"] = {"transformers", "T5TokenizerFast"};
  tiny::write(model / "model_index.json", index);
  const auto wanted = drawn(model);
  EXPECT_NE(drawn(tiny::folder("sd3")), wanted);
  EXPECT_EQ(drawn(tiny::folder("sd3"), {{"text_encoder_3", t5}}), wanted);
  EXPECT_EQ(drawn(tiny::folder("sd3"), {{"t5xxl", t5 / kWeights}}), wanted);
  // The tokenizer is beside the given file, or beside its folder.
  fs::copy(t5 / kWeights, folder / "t5xxl.safetensors");
  EXPECT_THAT(refused(ErrorKind::not_found, tiny::folder("sd3"), {{"t5xxl", folder / "t5xxl.safetensors"}}),
              HasSubstr("no tokenizer for it. Put the folder tokenizer_3"));
  fs::copy(model / "tokenizer_3", folder / "tokenizer_3");
  EXPECT_EQ(drawn(tiny::folder("sd3"), {{"t5xxl", folder / "t5xxl.safetensors"}}), wanted);

  auto notes = [](const fs::path& path) { return DiffusionPipeline::from_pretrained(path)->notes(); };
  EXPECT_THAT(notes(tiny::folder("sd3")), testing::ElementsAre(HasSubstr("has no text_encoder_3 (T5)")));
  EXPECT_THAT(notes(model), IsEmpty());
}

TEST(GivenTextEncoders, OthersAreRefusedByName) {
  TemporaryFolder folder;
  const auto sd = tiny::folder("sd"), xl = tiny::folder("sdxl"), sd3 = tiny::folder("sd3"), sd35 = tiny::folder("sd35");
  const auto unsupported = ErrorKind::unsupported, usage = ErrorKind::usage;
  EXPECT_THAT(refused(usage, sd, {{"clip_h", xl / "text_encoder"}}),
              HasSubstr("text_encoders has \"clip_h\", which is no text encoder. It takes clip_l, clip_g, t5xxl, "
                        "text_encoder, text_encoder_2 and text_encoder_3"));
  EXPECT_THAT(refused(usage, sd, {{"clip_g", xl / "text_encoder_2"}}),
              HasSubstr("text_encoders has \"clip_g\", but StableDiffusionPipeline has no text_encoder_2"));
  EXPECT_THAT(refused(usage, xl, {{"clip_l", xl / "text_encoder"}, {"text_encoder", xl / "text_encoder"}}),
              HasSubstr("text_encoder twice"));
  EXPECT_THAT(
      refused(unsupported, xl, {{"clip_l", xl / "text_encoder_2"}}),
      HasSubstr(
          "is of class CLIPTextModelWithProjection. text_encoder of StableDiffusionXLPipeline is a CLIPTextModel"));
  EXPECT_THAT(refused(unsupported, xl, {{"clip_l", xl / "text_encoder_2" / kWeights}}),
              HasSubstr("is a text encoder of another shape: its width is 24; that of the text_encoder of"));
  EXPECT_THAT(refused(unsupported, xl, {{"clip_l", sd35 / "text_encoder_3" / kWeights}}),
              HasSubstr("is a T5 text encoder, but text_encoder of StableDiffusionXLPipeline is a CLIPTextModel"));
  EXPECT_THAT(refused(unsupported, sd35, {{"t5xxl", sd / "text_encoder" / kWeights}}),
              HasSubstr("is a CLIP text encoder, but text_encoder_3"));
  EXPECT_THAT(refused(unsupported, sd, {{"clip_l", sd / "unet" / "diffusion_pytorch_model.safetensors"}}),
              HasSubstr("not a text encoder; its tensors"));
  EXPECT_THAT(refused(ErrorKind::not_found, sd, {{"clip_l", folder / "nowhere"}}), HasSubstr("nowhere"));
  EXPECT_THAT(refused(ErrorKind::not_found, sd, {{"clip_l", "owner/name"}}), HasSubstr("lora download"));
  EXPECT_THAT(refused(ErrorKind::not_found, sd, {{"clip_l", sd}}), HasSubstr("no config.json"));

  // Without own ones, the denoiser tells.
  const auto kind = tiny::checkpoint("sdxl");
  save_safetensors(tiny::without(kind, "conditioner."), folder / "xl.safetensors");
  save_safetensors(tiny::below(kind, "conditioner.embedders.1.model."), folder / "clip_g.safetensors");
  save_safetensors(tiny::below(tiny::checkpoint("sd1"), "cond_stage_model.transformer."), folder / "clip.safetensors");
  auto given = [&](const Paths& paths) { return refused(unsupported, folder / "xl.safetensors", paths); };
  EXPECT_THAT(given({{"clip_g", folder / "clip_g.safetensors"}}),
              HasSubstr("the text encoders do not fit the model. It reads states of width 52, but "
                        "text_encoder_2 has 28"));
}

}  // namespace lora
