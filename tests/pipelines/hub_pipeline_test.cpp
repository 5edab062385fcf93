// Pipelines from repositories on the Hub: which files are downloaded, and the errors for missing ones.
#include <gmock/gmock.h>

#include <set>

#include "hub/stub.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

namespace {

std::string weights_of(const std::string& component) {
  return component + (component.starts_with("text_encoder") ? "/model" : "/diffusion_pytorch_model");
}

// The files below a folder, relative to it.
std::set<std::string> files_below(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (!entry.is_directory()) names.insert(entry.path().lexically_relative(folder).generic_string());
  return names;
}

void expect_same_weights(const DiffusionPipeline& got, const DiffusionPipeline& wanted) {
  auto models = [](const DiffusionPipeline& pipe) {
    auto all = pipe.models();
    all.push_back(pipe.autoencoder());
    return all;
  };
  auto ours = models(got), theirs = models(wanted);
  ASSERT_EQ(ours.size(), theirs.size());
  for (size_t i = 0; i < ours.size(); ++i) {
    EXPECT_EQ(ours[i].name, theirs[i].name);
    for (const auto& [name, tensor] : ours[i].model->state_dict())
      EXPECT_TRUE(same_bits(tensor, theirs[i].model->state_dict().at(name))) << ours[i].name << "." << name;
  }
}

// Splits the UNet's weights into two files with an index. Returns the names of all three.
std::set<std::string> shard_unet(const fs::path& folder) {
  auto whole = folder / "unet/diffusion_pytorch_model.safetensors";
  StateDict halves[2];
  json map;
  auto name = [](size_t half) { return fmt::format("diffusion_pytorch_model-0000{}-of-00002.safetensors", half + 1); };
  auto all = load_state_dict(whole);
  for (const auto& [key, tensor] : all) {
    auto half = map.size() % 2;
    halves[half].set(key, tensor);
    map[key] = name(half);
  }
  for (size_t half : {0, 1}) save_safetensors(halves[half], folder / "unet" / name(half));
  tiny::write(folder / "unet/diffusion_pytorch_model.safetensors.index.json", {{"weight_map", map}});
  fs::remove(whole);
  return {"unet/" + name(0), "unet/" + name(1), "unet/diffusion_pytorch_model.safetensors.index.json"};
}

}  // namespace

class HubPipeline : public testing::Test {
 protected:
  static void SetUpTestSuite() { stub_ = new HubStub; }
  static void TearDownTestSuite() {
    delete stub_;
    stub_ = nullptr;
  }
  void SetUp() override { stub().reset(); }

  static HubStub& stub() { return *stub_; }
  // A repository with the tiny pipeline of this name. The caller may change it.
  static fs::path repository(const std::string& repo_id, const std::string& kind = "sd") {
    auto folder = stub().folder(repo_id);
    fs::create_directories(folder.parent_path());
    fs::copy(tiny::folder(kind), folder, fs::copy_options::recursive);
    return folder;
  }
  static std::unique_ptr<DiffusionPipeline> open(const std::string& repo_id, PipelineOptions options = {}) {
    options.dtype = at::kFloat;
    return DiffusionPipeline::from_pretrained(repo_id, options);
  }
  static std::string refused(ErrorKind kind, const std::string& repo_id, const PipelineOptions& options = {}) {
    return error_of(kind, [&] { open(repo_id, options); });
  }
  // The files of a repository that are in the cache.
  std::set<std::string> cached(const std::string& name) const {
    auto snapshots = home_.repo("owner--" + name) / "snapshots";
    return files_below(fs::directory_iterator(snapshots)->path());
  }

  HubHome home_{stub().endpoint()};

 private:
  static inline HubStub* stub_ = nullptr;
};

TEST_F(HubPipeline, EveryKindOpensAsFromAFolder) {
  for (const auto& kind : tiny::names()) {
    repository("owner/" + kind, kind);
    auto pipe = open("owner/" + kind);
    expect_same_weights(*pipe, *tiny::open(kind));
    EXPECT_EQ(cached(kind), files_below(tiny::folder(kind))) << kind;
  }
}

TEST_F(HubPipeline, WhatItHasNoUseForIsNotFetched) {
  auto folder = repository("owner/full");
  auto needed = files_below(folder);
  auto index = json::parse(std::ifstream(folder / "model_index.json"));
  index["safety_checker"] = {"stable_diffusion", "StableDiffusionSafetyChecker"};
  index["feature_extractor"] = {"transformers", "CLIPImageProcessor"};
  tiny::write(folder / "model_index.json", index);
  for (const char* file :
       {"safety_checker/config.json", "safety_checker/model.safetensors", "feature_extractor/preprocessor_config.json",
        "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "vae/README.md",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors", "text_encoder/pytorch_model.bin",
        "text_encoder/flax_model.msgpack", "tokenizer/model.onnx", "full.safetensors", "README.md"})
    stub().write("owner/full", file, "not to be read");
  expect_same_weights(*open("owner/full"), *tiny::open("sd"));
  EXPECT_EQ(cached("full"), needed);
  EXPECT_THAT(stub().requests(), Not(Contains(HasSubstr("safety_checker"))));
}

TEST_F(HubPipeline, VariantsAreTheOnesThatComeAndTheOthersDoNot) {
  auto folder = repository("owner/variants");
  for (const char* component : {"unet", "text_encoder", "vae"})
    fs::rename(folder / (weights_of(component) + ".safetensors"),
               folder / (weights_of(component) + ".fp16.safetensors"));
  auto needed = files_below(folder);
  stub().write("owner/variants", "unet/diffusion_pytorch_model.safetensors", "not to be read");
  expect_same_weights(*open("owner/variants", {.variant = "fp16"}), *tiny::open("sd"));
  EXPECT_EQ(cached("variants"), needed);
  stub().reset();
  EXPECT_THAT(
      refused(ErrorKind::not_found, "owner/variants"),
      HasSubstr(": text_encoder: there are no weights without a variant; the folder has these variants: \"fp16\""));
  EXPECT_THAT(stub().requests(), ElementsAre("GET /api/models/owner/variants/revision/main"));
}

TEST_F(HubPipeline, PicklesComeWhereThereIsNothingElse) {
  auto folder = repository("owner/pickles");
  for (const char* component : {"unet", "text_encoder", "vae"}) {
    auto file = folder / (weights_of(component) + ".safetensors");
    auto pickle = component == std::string("text_encoder") ? "text_encoder/pytorch_model" : weights_of(component);
    save_pickle(load_state_dict(file), folder / (pickle + ".bin"));
    fs::remove(file);
  }
  expect_same_weights(*open("owner/pickles"), *tiny::open("sd"));
}

TEST_F(HubPipeline, ShardsAreThoseOfTheIndex) {
  auto folder = repository("owner/shards");
  shard_unet(folder);
  auto needed = files_below(folder);
  stub().write("owner/shards", "unet/diffusion_pytorch_model-00003-of-00002.safetensors", "not to be read");
  expect_same_weights(*open("owner/shards"), *tiny::open("sd"));
  EXPECT_EQ(cached("shards"), needed);
}

TEST_F(HubPipeline, WhatIsCachedTakesOneRequestAndACommitNone) {
  repository("owner/again");
  open("owner/again");
  stub().reset();
  auto wanted = tiny::open("sd");
  expect_same_weights(*open("owner/again"), *wanted);
  EXPECT_THAT(stub().requests(), ElementsAre("GET /api/models/owner/again/revision/main"));
  auto commit = fs::directory_iterator(home_.repo("owner--again") / "snapshots")->path().filename().string();
  stub().reset();
  expect_same_weights(*open("owner/again", {.hub = {.revision = commit}}), *wanted);
  expect_same_weights(*open("owner/again", {.hub = {.local_files_only = true}}), *wanted);
  Environment offline("HF_HUB_OFFLINE", "1");
  expect_same_weights(*open("owner/again"), *wanted);
  fs::remove_all(home_.repo("owner--again") / "trees");
  expect_same_weights(*open("owner/again"), *wanted);
  EXPECT_THAT(stub().requests(), IsEmpty());
}

TEST_F(HubPipeline, WithoutTheHubTheCacheStandsIn) {
  repository("owner/away");
  open("owner/away");
  stub().rules({{{"do", {{"status", 503}}}}});
  expect_same_weights(*open("owner/away"), *tiny::open("sd"));
}

TEST_F(HubPipeline, StoredDtypeIsOfTheRepositorysWeights) {
  repository("owner/dtype");
  EXPECT_EQ(stored_dtype("owner/dtype"), at::kFloat);
}

// ---- What is missing ------------------------------------------------------------------------------------------------

TEST_F(HubPipeline, WhatIsMissingIsFoundOutBeforeWeightsCome) {
  std::tuple<const char*, const char*, const char*> rows[] = {
      {"no-weights", "vae/diffusion_pytorch_model.safetensors",
       ": vae: there are no weights; expected diffusion_pytorch_model"},
      {"no-config", "unet/config.json", ": unet: there is no config.json"},
      {"no-scheduler", "scheduler", "needs the folder scheduler"},
      {"no-tokenizer", "tokenizer", "needs the folder tokenizer"},
  };
  for (auto [name, missing, message] : rows) {
    auto repo_id = std::string("owner/") + name;
    fs::remove_all(repository(repo_id) / missing);
    auto said = refused(ErrorKind::not_found, repo_id);
    EXPECT_THAT(said, StartsWith(repo_id + "@"));
    EXPECT_THAT(said, HasSubstr(message));
    EXPECT_THAT(cached(name), ElementsAre("model_index.json"));
  }
  auto folder = repository("owner/no-shard");
  auto shards = shard_unet(folder);
  fs::remove(folder / *shards.begin());
  EXPECT_THAT(refused(ErrorKind::not_found, "owner/no-shard"), HasSubstr(*shards.begin()));
  EXPECT_THAT(cached("no-shard"), ElementsAre("model_index.json", *shards.rbegin()));
}

TEST_F(HubPipeline, AnotherPipelineIsRefusedBeforeWeightsCome) {
  repository("owner/other");
  EXPECT_THAT(error_of(ErrorKind::unsupported, [] { StableDiffusionXLPipeline::from_pretrained("owner/other"); }),
              HasSubstr("the caller opens it as StableDiffusionXLPipeline"));
  auto index = tiny::table()["pipelines"]["sd"]["index"];
  index["unet"][1] = "UNet3DConditionModel";
  tiny::write(stub().folder("owner/other") / "model_index.json", index);
  EXPECT_THAT(refused(ErrorKind::unsupported, "owner/other"), HasSubstr("unet is of class UNet3DConditionModel"));
  for (const auto& request : stub().requests()) EXPECT_THAT(request, Not(HasSubstr("safetensors")));
}

TEST_F(HubPipeline, IndicesThatAreNoneAreNamed) {
  for (const char* text : {"[]", "{}", R"({"_class_name": 3})"}) {
    stub().write("owner/odd", "model_index.json", text);
    EXPECT_THAT(refused(ErrorKind::bad_file, "owner/odd"), HasSubstr("does not name the pipeline's class"));
  }
}

TEST_F(HubPipeline, RepositoriesOfOtherThingsAreToldApart) {
  stub().write("owner/checkpoint", "v1.safetensors", "a checkpoint");
  stub().write("owner/checkpoint", "deep/v2.safetensors", "another");
  auto message = refused(ErrorKind::not_found, "owner/checkpoint");
  EXPECT_THAT(message, HasSubstr("the repository has no model_index.json, so it is not a diffusers pipeline"));
  EXPECT_THAT(message, HasSubstr("`lora download owner/checkpoint v1.safetensors`"));
  EXPECT_THAT(message, Not(HasSubstr("v2")));
  stub().write("owner/text", "README.md", "words");
  EXPECT_THAT(refused(ErrorKind::not_found, "owner/text"), HasSubstr("not a diffusers pipeline. It has: README.md"));
  message = refused(ErrorKind::not_found, "owner/nowhere");
  EXPECT_THAT(message, StartsWith("owner/nowhere: there is no such file or folder here"));
  EXPECT_THAT(message, HasSubstr("the Hub has no such repository"));
  repository("owner/part");
  hf_hub_download("owner/part", "vae/config.json");
  EXPECT_THAT(refused(ErrorKind::not_found, "owner/part", {.hub = {.local_files_only = true}}),
              HasSubstr("model_index.json: it is not in the cache"));
}

TEST_F(HubPipeline, MistypedPathsAskNobody) {
  for (auto text : {"models/tiyn/unet", "models/tiny.safetensors", "tiny", "./nowhere/tiny", "models/v1.ckpt"})
    EXPECT_THAT(refused(ErrorKind::not_found, text),
                HasSubstr("there is no such model folder or checkpoint; a repository on the Hub is \"owner/name\""));
  TemporaryFolder folder;
  fs::create_directories(folder / "models/tiny");
  auto back = fs::current_path();
  fs::current_path(folder.path());
  auto message = refused(ErrorKind::not_found, "models/tiyn");
  fs::current_path(back);
  EXPECT_THAT(message, HasSubstr("the Hub was not asked, because the folder \"models\" is here"));
  EXPECT_THAT(stub().requests(), IsEmpty());
}

}  // namespace lora
