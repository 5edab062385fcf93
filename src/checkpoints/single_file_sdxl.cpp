// Stable Diffusion XL, base and refiner, in the layout of Stability's generative models code ("SGM").
#include <ATen/ATen.h>

#include "checkpoints/published_configs.h"
#include "checkpoints/single_file_rules.h"
#include "core/check.h"
#include "names/ldm.h"

namespace lora {

namespace {

constexpr std::string_view kClip = "conditioner.embedders.0.transformer.", kOpenClip = "conditioner.embedders.1.model.",
                           kRefinerOpenClip = "conditioner.embedders.0.model.";

std::string scheduler_config(const StateDict& all, bool velocity) {
  auto config = scheduler_of("EulerDiscreteScheduler", velocity);
  config.update({{"interpolation_type", "linear"}, {"timestep_spacing", "leading"}, {"use_karras_sigmas", false}});
  if (has_zero_snr(all)) config["rescale_betas_zero_snr"] = true;
  return config.dump(2);
}

// The refiner reads one text encoder.
bool is_refiner(const StateDict& all) {
  if (has_prefix(all, kRefinerOpenClip)) return true;
  return !has_prefix(all, kOpenClip) && !has_prefix(all, kClip) && context_width(all) == kOpenClipGWidth;
}

}  // namespace

SingleFile split_stable_diffusion_xl(const StateDict& tensors, const std::string& label) {
  const bool refiner = is_refiner(tensors);
  std::vector<PrefixRule> rules{unet_rule(tensors), vae_rule(tensors)};
  if (!refiner) rules.push_back({kClip, "text_encoder", clip_name_from_ldm});
  rules.push_back({refiner ? kRefinerOpenClip : kOpenClip, "text_encoder_2", clip_name_from_open_clip});
  std::vector<std::string> notes;
  auto components = split_by_prefix(tensors, rules, label, notes);

  auto unet = unet_config(components["unet"], 128);
  unet["attention_head_dim"] = heads_of_64(components["unet"]);
  const bool inpainting = unet["in_channels"] == 9;
  SingleFile file{
      .pipeline_class = inpainting ? "StableDiffusionXLInpaintPipeline"
                        : refiner  ? "StableDiffusionXLImg2ImgPipeline"
                                   : "StableDiffusionXLPipeline",
      .components = {{"unet", make_component(unet, components["unet"], label, "UNet")}},
      .scheduler_config = scheduler_config(tensors, predicts_velocity(tensors, label, notes).value_or(false)),
  };
  file.notes = std::move(notes);
  add_vae(file, components, "StableDiffusionXLPipeline", label);
  if (auto first = components.find("text_encoder"); first != components.end())
    file.components["text_encoder"] =
        make_component(clip_config(first->second, "quick_gelu", 768), first->second, label, "first text encoder");
  if (auto second = components.find("text_encoder_2"); second != components.end()) {
    transpose_projection(second->second);
    file.components["text_encoder_2"] =
        make_component(clip_config(second->second, "gelu"), second->second, label, "second text encoder");
  }
  return file;
}

}  // namespace lora
