#pragma once
// The loaders' mixin over the smallest pair of models, without the rest of a pipeline.
#include <c10/core/InferenceMode.h>

#include "lora/denoisers.h"
#include "lora/loaders.h"
#include "lora/text_encoders.h"
#include "support/compare.h"

namespace lora {

class TinyPipeline : public StableDiffusionLoraLoaderMixin {
 public:
  explicit TinyPipeline(const ModelOptions& options = {.dtype = at::kFloat})
      : unet(UNet2DConditionModel::from_pretrained(folder() / "model" / "unet", options)),
        text_encoder(CLIPTextModel::from_pretrained(folder() / "model" / "text_encoder", options)) {
    adapt({{"unet", &unet}, {"text_encoder", &text_encoder}});
  }

  static std::filesystem::path folder() { return test_data() / "lora"; }
  static std::filesystem::path file(const std::string& name) { return folder() / "files" / name; }

  // One component's output for the reference's inputs.
  Tensor run(const std::string& component) const {
    static const auto expected = load_state_dict(folder() / "expected.safetensors");
    c10::InferenceMode inference;
    if (component == "text_encoder") return run(text_encoder);
    auto in = [&](const char* name) { return expected.at(std::string("inputs.") + name); };
    return unet(in("sample").to(unet.dtype()), in("timestep"), in("encoder_hidden_states").to(unet.dtype()));
  }

  static Tensor run(const CLIPTextModel& text_encoder) {
    static const auto ids = load_state_dict(folder() / "expected.safetensors").at("inputs.input_ids");
    c10::InferenceMode inference;
    return text_encoder(ids).last_hidden_state;
  }

  // Every weight as it is now, under its component's name.
  std::vector<std::pair<std::string, Tensor>> weights() const {
    std::vector<std::pair<std::string, Tensor>> all;
    for (const auto& [name, tensor] : unet.state_dict()) all.emplace_back("unet." + name, tensor.clone());
    for (const auto& [name, tensor] : text_encoder.state_dict())
      all.emplace_back("text_encoder." + name, tensor.clone());
    return all;
  }

  UNet2DConditionModel unet;
  CLIPTextModel text_encoder;
};

inline void expect_same_weights(const std::vector<std::pair<std::string, Tensor>>& got,
                                const std::vector<std::pair<std::string, Tensor>>& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(same_bits(got[i].second, wanted[i].second)) << got[i].first;
}

}  // namespace lora
