#pragma once
// The models that tests/data/dialects is about, and every one of them as a pipeline's loaders see it.
#include <c10/core/InferenceMode.h>

#include <map>
#include <memory>
#include <variant>

#include "lora/denoisers.h"
#include "lora/loaders.h"
#include "lora/text_encoders.h"
#include "models/reference_model.h"
#include "support/compare.h"

namespace lora::dialect_tests {

using nlohmann::json;

inline std::filesystem::path folder() { return test_data() / "dialects"; }

inline const json& cases() {
  static const json all = json::parse(std::ifstream(folder() / "cases.json"));
  return all;
}

using AnyModel = std::variant<UNet2DConditionModel, SD3Transformer2DModel, UVit2DModel, CLIPTextModel, T5EncoderModel>;

inline Tensor run(const UNet2DConditionModel& unet) {
  auto config = json::parse(unet.config());
  UNetOptions options;
  if (config.contains("addition_embed_type") && config["addition_embed_type"] == "text_time") {
    int64_t ids = 6, pooled = config["projection_class_embeddings_input_dim"].get<int64_t>() -
                              ids * config["addition_time_embed_dim"].get<int64_t>();
    options.text_embeds = reference::input("text_embeds", {1, pooled});
    options.time_ids = reference::input("time_ids", {1, ids});
  }
  auto states = reference::input("states", {1, 3, config["cross_attention_dim"].get<int64_t>()});
  return unet(reference::input("sample", {1, unet.in_channels(), 8, 8}), at::scalar_tensor(501), states, options);
}

inline Tensor run(const SD3Transformer2DModel& transformer) {
  auto pooled = json::parse(transformer.config())["pooled_projection_dim"].get<int64_t>();
  return transformer(reference::input("sample", {1, transformer.in_channels(), 8, 8}),
                     reference::input("states", {1, 3, transformer.joint_attention_dim()}),
                     reference::input("pooled", {1, pooled}), at::scalar_tensor(501));
}

inline Tensor run(const UVit2DModel& transformer) {
  auto config = json::parse(transformer.config());
  auto size = [&](const char* field) { return config[field].get<int64_t>(); };
  return transformer(reference::tokens("ids", {1, 4, 4}, transformer.codebook_size()),
                     reference::input("states", {1, 3, size("encoder_hidden_size")}),
                     reference::input("pooled", {1, size("cond_embed_dim")}), reference::input("micro", {1, 5}));
}

inline Tensor run(const CLIPTextModel& text) {
  auto out = text(reference::tokens("ids", {1, 7}, 98));
  auto states = out.last_hidden_state.flatten();
  return out.text_embeds.defined() ? at::cat({states, out.text_embeds.flatten()}) : states;
}

inline Tensor run(const T5EncoderModel& text) { return text(reference::tokens("ids", {1, 7}, 98)); }

template <class M>
AnyModel make(const std::string& config, const StateDict* tensors, Dtype dtype) {
  if (tensors) return M::from_state_dict(config, *tensors, {.dtype = dtype});
  StateDict named;
  auto shapes = M::random(config, 0);
  for (const auto& [name, tensor] : shapes.state_dict()) named.set(name, reference::weight(name, tensor.sizes()));
  return M::from_state_dict(config, named, {.dtype = dtype});
}

// Of the weights that its names give, or of others.
inline AnyModel make(const json& row, const StateDict* tensors = nullptr, Dtype dtype = at::kFloat) {
  auto cls = row["cls"].get<std::string>(), config = row["config"].dump();
  if (cls == "UNet2DConditionModel") return make<UNet2DConditionModel>(config, tensors, dtype);
  if (cls == "SD3Transformer2DModel") return make<SD3Transformer2DModel>(config, tensors, dtype);
  if (cls == "UVit2DModel") return make<UVit2DModel>(config, tensors, dtype);
  if (cls == "T5EncoderModel") return make<T5EncoderModel>(config, tensors, dtype);
  return make<CLIPTextModel>(config, tensors, dtype);
}

class Pipeline : public LoraBaseMixin {
 public:
  explicit Pipeline(const std::string& name, Dtype dtype = at::kFloat) : row_(cases()["models"][name]) {
    for (const auto& [component, model] : row_.items()) models_.emplace(component, make(model, nullptr, dtype));
    std::vector<std::pair<std::string, Model*>> all;
    for (auto& [component, any] : models_)
      all.emplace_back(component, std::visit([](auto& m) -> Model* { return &m; }, any));
    std::sort(all.begin(), all.end(), [](auto& a, auto& b) {
      auto text = [](auto& c) { return c.first.starts_with("text_encoder"); };
      return std::pair(text(a), a.first) < std::pair(text(b), b.first);
    });
    adapt(all);
  }

  // Built once; every test leaves it as it found it.
  static Pipeline& of(const std::string& name) {
    static std::map<std::string, std::unique_ptr<Pipeline>> all;
    auto& pipeline = all[name];
    if (!pipeline) pipeline = std::make_unique<Pipeline>(name);
    return *pipeline;
  }

  const Model& model(const std::string& component) const {
    return std::visit([](const auto& m) -> const Model& { return m; }, models_.at(component));
  }
  Tensor run(const std::string& component) const { return run(models_.at(component)); }

  // What the component gives with other weights.
  Tensor run_with(const std::string& component, const StateDict& tensors) const {
    return run(make(row_[component], &tensors));
  }

  // Every weight as it is now, under its component's name.
  std::map<std::string, Tensor> weights() const {
    std::map<std::string, Tensor> all;
    for (const auto& [component, any] : models_)
      for (const auto& [name, tensor] : model(component).state_dict()) all[component + "." + name] = tensor.clone();
    return all;
  }

 private:
  const json& row_;
  std::map<std::string, AnyModel> models_;

  static Tensor run(const AnyModel& any) {
    c10::InferenceMode inference;
    return std::visit([](const auto& m) { return dialect_tests::run(m); }, any);
  }
};

}  // namespace lora::dialect_tests
