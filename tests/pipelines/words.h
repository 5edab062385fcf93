#pragma once
// Words with vectors of their own, on the tiny pipelines.
#include "pipelines/tiny_pipelines.h"

namespace lora::tiny {

// The names of text encoders in files.
inline const std::map<std::string, std::string> kEncoderNames{
    {"text_encoder", "clip_l"}, {"text_encoder_2", "clip_g"}, {"text_encoder_3", "t5"}};

// A text's ids without those of its begin and end.
inline std::vector<int64_t> ids_of(const DiffusionPipeline& pipe, const std::string& component,
                                   const std::string& text) {
  auto clip = [&](const CLIPTokenizer& tokenizer) {
    auto ids = tokenizer.encode(text);
    return std::vector<int64_t>(ids.begin() + 1, ids.end() - 1);
  };
  if (auto* sd = dynamic_cast<const StableDiffusionPipeline*>(&pipe)) return clip(sd->tokenizer);
  if (auto* amused = dynamic_cast<const AmusedPipeline*>(&pipe)) return clip(amused->tokenizer);
  if (auto* xl = dynamic_cast<const StableDiffusionXLPipeline*>(&pipe))
    return clip(component == "text_encoder" ? *xl->tokenizer : xl->tokenizer_2);
  const auto& sd3 = dynamic_cast<const StableDiffusion3Pipeline&>(pipe);
  if (component != "text_encoder_3") return clip(component == "text_encoder" ? sd3.tokenizer : sd3.tokenizer_2);
  auto ids = sd3.tokenizer_3->encode(text);
  return {ids.begin(), ids.end() - 1};
}

// The vectors of a text in each text encoder, under the encoders' names in files.
inline StateDict vectors_of(const DiffusionPipeline& pipe, const std::string& text) {
  StateDict vectors;
  for (const auto& [component, model] : pipe.models()) {
    if (!parts_of(*model).vocabulary) continue;
    auto rows = at::tensor(ids_of(pipe, component, text), at::kLong);
    vectors.set(kEncoderNames.at(component), parts_of(*model).vocabulary->weight.index_select(0, rows));
  }
  return vectors;
}

// The latents of a picture in two steps.
inline Tensor draw_latents(const DiffusionPipeline& pipe, const Prompts& prompt, CallOptions o = {}) {
  o.num_inference_steps = 2;
  o.seed = {1};
  auto config = json::parse(pipe.models().front().model->config());
  if (config.value("in_channels", 4) == 9) o.image = o.mask_image = {picture("words", {32, 32})};
  return pipe.generate_latents(prompt, o);
}

}  // namespace lora::tiny
