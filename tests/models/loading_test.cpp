#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "checkpoints/component_files.h"
#include "lora/error.h"
#include "models/errors.h"
#include "models/model_loader.h"
#include "nn/layers.h"
#include "support/folder.h"

namespace lora {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

namespace {

// Two tensors whose first element tells which file they were read from.
StateDict weights(float mark, Dtype dtype = at::kFloat) {
  return {{"proj.weight", at::full({3, 2}, mark, at::kFloat).to(dtype)}, {"proj.bias", at::zeros({3}, dtype)}};
}

// The mark of the file that is found.
float found(const TemporaryFolder& folder, const std::string& variant = "", WeightFiles files = kDiffusersFiles) {
  return open_component(folder.path(), files, variant).tensors.at("proj.weight")[0][0].item<float>();
}

std::string why_not(const TemporaryFolder& folder, const std::string& variant = "") {
  return error_of([&] { found(folder, variant); });
}

// One tensor a file, and the index that joins them.
void save_shards(const TemporaryFolder& folder, const std::string& stem, const std::string& index, float mark) {
  json map;
  for (const auto& [name, t] : weights(mark)) {
    auto file = stem + "-" + std::to_string(map.size()) + ".safetensors";
    save_safetensors({{name, t}}, folder / file);
    map[name] = file;
  }
  folder.write(index, json{{"metadata", {{"total_size", 36}}}, {"weight_map", map}}.dump());
}

}  // namespace

// ---- Files ----------------------------------------------------------------------------------------------------------

TEST(Loading, SafetensorsComeBeforePicklesAndWholeFilesBeforeShards) {
  TemporaryFolder folder;
  folder.write("config.json", R"({"b": 1, "a": [2]})");
  save_pickle(weights(1), folder / "diffusion_pytorch_model.bin");
  EXPECT_EQ(found(folder), 1);
  save_shards(folder, "part", "diffusion_pytorch_model.safetensors.index.json", 2);
  EXPECT_EQ(found(folder), 2);
  save_safetensors(weights(3), folder / "diffusion_pytorch_model.safetensors");
  EXPECT_EQ(found(folder), 3);
  save_safetensors(weights(4), folder / "model.safetensors");
  EXPECT_EQ(found(folder), 3);
  EXPECT_EQ(found(folder, "", kTransformersFiles), 4);

  auto component = open_component(folder.path(), kDiffusersFiles);
  EXPECT_EQ(json::parse(component.config), json::parse(R"({"a": [2], "b": 1})"));
  EXPECT_EQ(component.label, folder.path().string());
}

TEST(Loading, TransformersPicklesHaveANameOfTheirOwn) {
  TemporaryFolder folder;
  folder.write("config.json", "{}");
  save_pickle(weights(1), folder / "pytorch_model.bin");
  EXPECT_EQ(found(folder, "", kTransformersFiles), 1);
}

TEST(Loading, VariantsInEverySpelling) {
  for (auto index :
       {"diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model.fp16.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.fp16.index.json"}) {
    TemporaryFolder folder;
    folder.write("config.json", "{}");
    save_safetensors(weights(1), folder / "diffusion_pytorch_model.safetensors");
    save_shards(folder, "part", index, 2);
    EXPECT_EQ(found(folder, "fp16"), 2) << index;
    save_safetensors(weights(3), folder / "diffusion_pytorch_model.fp16.safetensors");
    EXPECT_EQ(found(folder, "fp16"), 3);
    EXPECT_EQ(found(folder), 1);
  }
  TemporaryFolder folder;
  folder.write("config.json", "{}");
  save_pickle(weights(4), folder / "diffusion_pytorch_model.fp16.bin");
  EXPECT_EQ(found(folder, "fp16"), 4);
}

TEST(Loading, WhatIsMissingIsSaidWithWhatIsThere) {
  TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { open_component(folder / "unet", kDiffusersFiles); }), StartsWith("not_found: "));
  folder.write("README.md", "");
  EXPECT_THAT(why_not(folder), HasSubstr("there is no config.json; the folder has README.md"));
  folder.write("config.json", "{}");
  EXPECT_THAT(why_not(folder), StartsWith("not_found: "));
  EXPECT_THAT(why_not(folder),
              HasSubstr("there are no weights; expected diffusion_pytorch_model.safetensors, but the folder has "
                        "README.md, config.json"));

  save_safetensors(weights(1), folder / "diffusion_pytorch_model.fp16.safetensors");
  save_pickle(weights(1), folder / "diffusion_pytorch_model.non_ema.bin");
  EXPECT_THAT(
      why_not(folder),
      HasSubstr("there are no weights without a variant; the folder has these variants: \"fp16\", \"non_ema\""));
  EXPECT_THAT(
      why_not(folder, "bf16"),
      HasSubstr("there are no weights of variant \"bf16\"; the folder has these variants: \"fp16\", \"non_ema\""));
  save_safetensors(weights(1), folder / "diffusion_pytorch_model.safetensors");
  EXPECT_THAT(why_not(folder, "bf16"),
              HasSubstr("the folder has these variants: the one without a name, \"fp16\", \"non_ema\""));
}

TEST(Loading, ABrokenConfigIsNamed) {
  TemporaryFolder folder;
  folder.write("config.json", "{,}");
  save_safetensors(weights(1), folder / "diffusion_pytorch_model.safetensors");
  EXPECT_THAT(why_not(folder), StartsWith("bad_file: "));
  EXPECT_THAT(why_not(folder), HasSubstr("config.json"));
}

// ---- Layers ---------------------------------------------------------------------------------------------------------

TEST(Loading, TensorsOfTheWantedDtypeAreTheFilesOwn) {
  auto tensors = weights(1);
  ModelLoader loader(tensors, "here", {.dtype = at::kFloat});
  Linear proj{loader.root() / "proj", 2, 3};
  auto parts = loader.finish();
  EXPECT_EQ(proj.site->weight.data_ptr(), tensors.at("proj.weight").data_ptr());
  EXPECT_EQ(parts->tensors.at("proj.bias").data_ptr(), tensors.at("proj.bias").data_ptr());
  EXPECT_EQ(parts->by_path.at("proj"), proj.site);
}

TEST(Loading, NothingKeepsConvertedTensorsSourcesAlive) {
  auto tensors = weights(1, at::kHalf);
  auto watched = tensors.at("proj.weight");
  ModelLoader loader(tensors, "here", {.dtype = at::kFloat});
  Linear proj{loader.root() / "proj", 2, 3};
  auto parts = loader.finish();
  tensors = {};
  EXPECT_EQ(watched.use_count(), 1u);
  EXPECT_EQ(watched.storage().use_count(), 1u);
  EXPECT_EQ(proj.site->weight.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(proj.site->weight, at::ones({3, 2})));
}

TEST(Loading, DtypeFollowsTheMachineUnlessGiven) {
  auto tensors = weights(1, at::kHalf);
  EXPECT_EQ(ModelLoader(tensors, "", {.dtype = at::kHalf}).dtype(), at::kHalf);
  bool fast = __builtin_cpu_supports("avx512bf16");
  EXPECT_EQ(ModelLoader(tensors, "", {}).dtype(), fast ? at::kBFloat16 : at::kFloat);
  EXPECT_EQ(ModelLoader(tensors, "", {.device = at::kCUDA}).dtype(), at::kHalf);
  auto bfloat16 = weights(1, at::kBFloat16), full = weights(1);
  EXPECT_EQ(ModelLoader(bfloat16, "", {.device = at::kCUDA}).dtype(), at::kBFloat16);
  EXPECT_EQ(ModelLoader(full, "", {.device = at::kCUDA}).dtype(), at::kHalf);
}

TEST(Loading, OtherNamesAreTriedInOrder) {
  auto tensors = weights(1);
  auto names = [](const std::string& name) { return std::vector<std::string>{"x." + name, "proj" + name.substr(3)}; };
  ModelLoader loader(tensors, "here", {.dtype = at::kFloat}, names);
  Linear now{loader.root() / "now", 2, 3};
  auto parts = loader.finish();
  EXPECT_TRUE(parts->tensors.contains("now.weight"));
  EXPECT_EQ(now.site->weight.data_ptr(), tensors.at("proj.weight").data_ptr());
}

TEST(Loading, TensorsThatNoLayerTakesAreNamed) {
  auto tensors = weights(1);
  tensors.set("extra.weight", at::zeros({1}));
  tensors.set("position_ids", at::zeros({1}));
  auto notes = [&](const std::set<std::string>& ignorable) {
    ModelLoader loader(tensors, "here", {});
    Linear proj{loader.root() / "proj", 2, 3};
    loader.finish(ignorable);
    return loader.notes();
  };
  EXPECT_EQ(notes({"position_ids"}),
            std::vector<std::string>{"here: the model does not have these tensors, which were left out: extra.weight"});
  EXPECT_EQ(notes({"position_ids", "extra.weight"}), std::vector<std::string>());
}

// They are no left-overs: without them, the model would do something else than it was trained for.
TEST(Loading, TensorsOfALayerThatTheModelHasAreAnError) {
  for (const char* name : {"proj.scale", "blocks.2.norm.weight", "blocks.0.norm.gain", "blocks.0.attn.norm_q.weight"}) {
    auto tensors = weights(1);
    tensors.set("blocks.0.norm.weight", at::ones({2}));
    tensors.set("blocks.0.norm.bias", at::ones({2}));
    tensors.set(name, at::zeros({1}));
    EXPECT_EQ(error_of([&] {
                ModelLoader loader(tensors, "here", {});
                Linear proj{loader.root() / "proj", 2, 3};
                LayerNorm norm{loader.root() / "blocks.0.norm", 2};
                loader.finish();
              }),
              fmt::format("bad_key: here: the model does not have layers for {}; the config describes another model "
                          "than this file",
                          name));
  }
}

TEST(Loading, MissingTensorsAndWrongShapesAreNamed) {
  auto tensors = weights(1);
  auto load = [&](const std::string& path, int64_t in, int64_t out) {
    return error_of([&] {
      ModelLoader loader(tensors, "here", {});
      Linear{loader.root() / path, in, out};
      loader.finish();
    });
  };
  EXPECT_THAT(load("other", 2, 3),
              StartsWith("bad_key: here: tensor \"other.weight\" is missing, tensor \"other.bias\""));
  EXPECT_THAT(load("proj", 3, 3), StartsWith("bad_shape: here: proj.weight"));
}

// ---- Random weights -------------------------------------------------------------------------------------------------

TEST(Loading, RandomWeightsDependOnSeedAndNameAlone) {
  auto draw = [](uint64_t seed, std::vector<std::string> order) {
    auto loader = ModelLoader::random(seed, {});
    for (const auto& name : order) Linear{loader.root() / name, 700, 800};
    return loader.finish()->tensors;
  };
  auto a = draw(1, {"p", "q"}), b = draw(1, {"q", "p"}), c = draw(2, {"p", "q"});
  EXPECT_TRUE(at::equal(a.at("p.weight"), b.at("p.weight")));
  EXPECT_TRUE(at::equal(a.at("q.weight"), b.at("q.weight")));
  EXPECT_FALSE(at::equal(a.at("p.weight"), a.at("q.weight")));
  EXPECT_FALSE(at::equal(a.at("p.weight"), c.at("p.weight")));

  auto w = a.at("p.weight");
  EXPECT_NEAR(w.mean().item<double>(), 0, 1e-4);
  EXPECT_NEAR(w.std().item<double>(), 0.02, 1e-4);
  EXPECT_FALSE(at::equal(w.view(-1).slice(0, 0, 1000), w.view(-1).slice(0, 1 << 18, (1 << 18) + 1000)));
}

TEST(Loading, RandomNormsScaleByAboutOne) {
  auto loader = ModelLoader::random(1, {.dtype = at::kHalf});
  LayerNorm norm{loader.root() / "norm", 4096};
  loader.finish();
  EXPECT_EQ(norm.site->weight.scalar_type(), at::kHalf);
  EXPECT_NEAR(norm.site->weight.to(at::kFloat).mean().item<double>(), 1, 2e-3);
  EXPECT_NEAR(norm.site->bias.to(at::kFloat).mean().item<double>(), 0, 2e-3);
}

}  // namespace lora
