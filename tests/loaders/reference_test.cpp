// Every spelling of a LoRA, alone, mixed and fused, against what its trainer's formula gives.
#include <fstream>
#include <nlohmann/json.hpp>

#include "loaders/tiny_pipeline.h"

namespace lora {

namespace {

using nlohmann::json;

const json& reference() {
  static const json cases = json::parse(std::ifstream(TinyPipeline::folder() / "cases.json"));
  return cases;
}

const StateDict& expected() {
  static const auto tensors = load_state_dict(TinyPipeline::folder() / "expected.safetensors");
  return tensors;
}

std::vector<std::string> load(TinyPipeline& pipe, const json& row) {
  std::vector<std::string> names;
  std::vector<LoraScale> weights;
  for (const auto& adapter : row["adapters"]) {
    names.push_back(adapter["adapter_name"]);
    weights.push_back(adapter["weight"].get<double>());
    pipe.load_lora_weights(TinyPipeline::folder() / adapter["file"].get<std::string>(), {.adapter_name = names.back()});
  }
  pipe.set_adapters(names, weights);
  return names;
}

}  // namespace

TEST(Reference, EveryCaseGivesItsFormulasOutput) {
  double tolerance = reference()["tolerance"];
  int compared = 0;
  for (const auto& row : reference()["cases"]) {
    SCOPED_TRACE(row["name"].get<std::string>());
    TinyPipeline pipe;
    auto base = pipe.weights();
    auto names = load(pipe, row);
    if (row["fused"]) pipe.fuse_lora({.lora_scale = row["lora_scale"], .adapter_names = names});
    for (const auto& [component, key] : row["outputs"].items()) {
      expect_close(pipe.run(component), expected().at(key), tolerance);
      ++compared;
    }
    pipe.unfuse_lora();
    pipe.unload_lora_weights();
    expect_same_weights(pipe.weights(), base);
    for (const auto& [component, key] : reference()["base"].items())
      expect_close(pipe.run(component), expected().at(key), tolerance);
  }
  EXPECT_GT(compared, 100);
}

TEST(Reference, EveryLayersRankAndScaleAreReported) {
  for (const auto& file : reference()["files"]) {
    std::string name = file["file"];
    SCOPED_TRACE(name);
    TinyPipeline pipe;
    auto report = pipe.load_lora_weights(TinyPipeline::folder() / name);
    EXPECT_TRUE(report.unmatched.empty()) << report.text();
    std::map<std::string, const LoadReport::Layer*> loaded;
    for (const auto& component : report.components)
      for (const auto& layer : component.layers) loaded[component.name + "." + layer.path] = &layer;
    size_t wanted = 0;
    for (const auto& [component, layers] : file["layers"].items())
      for (const auto& [path, row] : layers.items()) {
        ++wanted;
        auto it = loaded.find(component + "." + path);
        if (it == loaded.end()) {
          ADD_FAILURE() << component << "." << path << " was not loaded";
          continue;
        }
        EXPECT_EQ(it->second->rank, row[0].get<int64_t>()) << path;
        EXPECT_NEAR(it->second->scale, row[1].get<double>(), 1e-6 * std::abs(row[1].get<double>())) << path;
      }
    EXPECT_EQ(loaded.size(), wanted);
  }
}

// bfloat16 rounds to 8 bits at every layer; a network of some twenty layers in a row stays within a few of them.
TEST(Reference, HalfPrecisionIsOffByRoundingAlone) {
  TinyPipeline pipe({.dtype = at::kBFloat16});
  pipe.load_lora_weights(TinyPipeline::file("kohya.safetensors"));
  expect_close(pipe.run("unet"), expected().at("kohya.safetensors@1.0.unet"), 0.05);
  expect_close(pipe.run("text_encoder"), expected().at("kohya.safetensors@1.0.text_encoder"), 0.03);
}

}  // namespace lora
