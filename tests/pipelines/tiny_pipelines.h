#pragma once
// The smallest pipeline of each kind, from tests/data/pipelines/tiny.json: configs, with weights made from names.
#include <ATen/ATen.h>

#include "lora/pipelines.h"
#include "models/parts_of.h"
#include "models/reference_model.h"
#include "nn/site.h"
#include "support/compare.h"

namespace lora::tiny {

using nlohmann::json;

inline const json& table() {
  static const json all = json::parse(std::ifstream(test_data() / "pipelines" / "tiny.json"));
  return all;
}

inline std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& [name, pipeline] : table()["pipelines"].items()) all.push_back(name);
  return all;
}

inline std::string test_name(const testing::TestParamInfo<std::string>& info) {
  auto name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

template <class M>
StateDict weights(const json& config) {
  StateDict tensors;
  auto model = M::random(config.dump(), 0);
  for (const auto& [name, tensor] : model.state_dict()) tensors.set(name, reference::weight(name, tensor.sizes()));
  return tensors;
}

inline StateDict weights(const std::string& class_name, const json& config) {
  if (class_name == "UNet2DConditionModel") return weights<UNet2DConditionModel>(config);
  if (class_name == "SD3Transformer2DModel") return weights<SD3Transformer2DModel>(config);
  if (class_name == "UVit2DModel") return weights<UVit2DModel>(config);
  if (class_name == "AutoencoderKL") return weights<AutoencoderKL>(config);
  if (class_name == "VQModel") return weights<VQModel>(config);
  if (class_name == "T5EncoderModel") return weights<T5EncoderModel>(config);
  return weights<CLIPTextModel>(config);
}

inline void write(const std::filesystem::path& file, const json& value) { std::ofstream(file) << value.dump(2); }

// A diffusers folder of the pipeline, written once for all tests.
inline std::filesystem::path folder(const std::string& name) {
  namespace fs = std::filesystem;
  static const TemporaryFolder all;
  auto root = all / name;
  if (fs::exists(root)) return root;
  const auto& pipeline = table()["pipelines"][name];
  auto index = pipeline["index"];
  fs::create_directories(root / "scheduler");
  write(root / "scheduler" / "scheduler_config.json", pipeline["scheduler"]);
  for (const auto& [component, config] : pipeline["components"].items()) {
    fs::create_directories(root / component);
    write(root / component / "config.json", config);
    bool text = component.starts_with("text_encoder");
    auto file = text ? "model.safetensors" : "diffusion_pytorch_model.safetensors";
    save_safetensors(weights(index[component][1], config), root / component / file);
    if (!text) continue;
    auto tokenizer = "tokenizer" + component.substr(std::string("text_encoder").size());
    bool t5 = component == "text_encoder_3";
    fs::copy(t5 ? test_data() / "tokenizers" / "t5" : embedded_models() / "tiny" / "tokenizer", root / tokenizer);
    index[tokenizer] = {"transformers", t5 ? "T5TokenizerFast" : "CLIPTokenizer"};
  }
  write(root / "model_index.json", index);
  return root;
}

inline std::unique_ptr<DiffusionPipeline> open(const std::string& name, Dtype dtype = at::kFloat) {
  return DiffusionPipeline::from_pretrained(folder(name), {.dtype = dtype});
}

// An adapter on every linear layer and convolution whose path ends in one of `targets`, of any component.
inline StateDict factors(const DiffusionPipeline& pipe, const std::string& name,
                         const std::vector<std::string>& targets, int64_t rank) {
  StateDict tensors;
  for (const auto& [component, model] : pipe.models())
    for (const auto& site : parts_of(*model).sites) {
      if (site->kind != SiteKind::linear && site->kind != SiteKind::conv2d) continue;
      if (std::none_of(targets.begin(), targets.end(), [&](auto& t) { return site->path.ends_with(t); })) continue;
      auto down = site->weight.sizes().vec();
      std::vector<int64_t> up(down.size(), 1);
      up[0] = std::exchange(down[0], rank);
      up[1] = rank;
      auto path = component + "." + site->path;
      for (auto [suffix, shape] : {std::pair{".lora_A.weight", down}, {".lora_B.weight", up}})
        tensors.set(path + suffix, 0.7 * reference::weight(name + "." + path + suffix, shape));
    }
  return tensors;
}

inline Image picture(const std::string& name, const json& size) {
  int height = size[0], width = size[1];
  auto bytes = ((reference::noise(name, {height, width, 3}) + 1) * 128).floor().to(at::kByte);
  auto* first = bytes.const_data_ptr<uint8_t>();
  return {width, height, {first, first + bytes.numel()}, {}};
}

}  // namespace lora::tiny
