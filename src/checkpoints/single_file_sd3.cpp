// Stable Diffusion 3 and 3.5, in the layout of Stability's reference code.
#include <ATen/ATen.h>

#include "checkpoints/published_configs.h"
#include "checkpoints/single_file_rules.h"
#include "names/ldm.h"

namespace lora {

namespace {

constexpr std::string_view kClipL = "text_encoders.clip_l.transformer.", kClipG = "text_encoders.clip_g.transformer.",
                           kT5 = "text_encoders.t5xxl.transformer.";

std::string unchanged(std::string_view name) { return std::string(name); }

// A modulation without a gate has its shift before its scale here. diffusers has the scale first.
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

}  // namespace

SingleFile split_stable_diffusion_3(const StateDict& tensors, const std::string& label) {
  std::vector<std::string> notes;
  auto components = split_by_prefix(tensors,
                                    {{kDiffusionModel, "transformer", sd3_name_from_original},
                                     vae_rule(tensors),
                                     {kClipL, "text_encoder", unchanged},
                                     {kClipG, "text_encoder_2", unchanged},
                                     {kT5, "text_encoder_3", unchanged}},
                                    label, notes);
  auto& transformer = components["transformer"];
  auto layers = count_blocks(transformer, "transformer_blocks.{}.norm1.linear.weight");
  swap_halves(transformer, "norm_out.linear");
  swap_halves(transformer, "transformer_blocks." + std::to_string(layers - 1) + ".norm1_context.linear");

  SingleFile file{
      .pipeline_class = "StableDiffusion3Pipeline",
      .components = {{"transformer", make_component(sd3_config(transformer), transformer, label, "transformer")}},
      .scheduler_config = scheduler_config(),
      .notes = std::move(notes),
  };
  add_vae(file, components, file.pipeline_class, label);
  auto add = [&](const char* name, const char* what, auto config) {
    if (auto found = components.find(name); found != components.end())
      file.components[name] = make_component(config(found->second), found->second, label, what);
  };
  if (auto clip = components.find("text_encoder"); clip != components.end()) set_identity_projection(clip->second);
  add("text_encoder", "first text encoder", [](auto& t) { return clip_config(t, "quick_gelu"); });
  add("text_encoder_2", "second text encoder", [](auto& t) { return clip_config(t, "gelu"); });
  add("text_encoder_3", "third text encoder", [](auto& t) { return t5_config(t); });
  return file;
}

}  // namespace lora
