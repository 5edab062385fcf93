// Stable Diffusion 3 and 3.5, in the layout of Stability's reference code.
#include <ATen/ATen.h>

#include "checkpoints/published_configs.h"
#include "checkpoints/single_file_parts.h"
#include "names/ldm.h"

namespace lora {

namespace {

constexpr std::string_view kClipL = "text_encoders.clip_l.transformer.", kClipG = "text_encoders.clip_g.transformer.",
                           kT5 = "text_encoders.t5xxl.transformer.";

std::string as_it_is(std::string_view name) { return std::string(name); }

// A modulation without a gate has its shift before its scale here, diffusers the other way round.
void swap_halves(StateDict& transformer, const std::string& layer) {
  for (const auto& name : {layer + ".weight", layer + ".bias"})
    if (auto* t = transformer.find(name); t && t->dim() > 0) {
      auto half = t->size(0) / 2;
      transformer.set(name, at::cat({t->slice(0, half), t->slice(0, 0, half)}));
    }
}

std::string scheduler_config() {
  return nlohmann::json{
      {"_class_name", "FlowMatchEulerDiscreteScheduler"}, {"num_train_timesteps", 1000}, {"shift", 3.0}}
      .dump(2);
}

nlohmann::json sd3_vae_config(const StateDict& vae) {
  auto config = vae_config(vae, 1024, 1.5305);
  config.update({{"force_upcast", true},
                 {"shift_factor", 0.0609},
                 {"use_post_quant_conv", vae.contains("post_quant_conv.weight")},
                 {"use_quant_conv", vae.contains("quant_conv.weight")}});
  return config;
}

}  // namespace

SingleFile split_stable_diffusion_3(const StateDict& tensors, const std::string& label) {
  require(tensors, "VAE", {kVae});
  auto parts = split_parts(tensors,
                           {{kDiffusionModel, "transformer", sd3_name_from_original},
                            vae_part(tensors),
                            {kClipL, "text_encoder", as_it_is},
                            {kClipG, "text_encoder_2", as_it_is},
                            {kT5, "text_encoder_3", as_it_is}},
                           "Stable Diffusion 3");
  auto& transformer = parts["transformer"];
  auto layers = count_blocks(transformer, "transformer_blocks.{}.norm1.linear.weight");
  swap_halves(transformer, "norm_out.linear");
  swap_halves(transformer, "transformer_blocks." + std::to_string(layers - 1) + ".norm1_context.linear");

  SingleFile file{
      .pipeline_class = "StableDiffusion3Pipeline",
      .components = {{"transformer", {sd3_config(transformer).dump(2), transformer, label + " (transformer)"}},
                     {"vae", {sd3_vae_config(parts["vae"]).dump(2), parts["vae"], label + " (VAE)"}}},
      .scheduler_config = scheduler_config(),
  };
  auto add = [&](const char* component, const char* shown, auto config) {
    if (auto part = parts.find(component); part != parts.end())
      file.components[component] = {config(part->second).dump(2), part->second, label + shown};
  };
  if (auto clip = parts.find("text_encoder"); clip != parts.end()) {
    const std::string kTokens = "text_model.embeddings.token_embedding.weight";
    auto hidden = dimension(clip->second, kTokens, 1);
    clip->second.set("text_projection.weight", at::eye(hidden, clip->second.at(kTokens).options()));
  }
  add("text_encoder", " (first text encoder)", [](auto& t) { return clip_config(t, "quick_gelu"); });
  add("text_encoder_2", " (second text encoder)", [](auto& t) { return clip_config(t, "gelu"); });
  add("text_encoder_3", " (third text encoder)", [](auto& t) { return t5_config(t); });
  return file;
}

}  // namespace lora
