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

// OpenCLIP stores the transpose of the projection.
void transpose_projection(StateDict& text_encoder) {
  const std::string name = "text_projection.weight";
  const auto& projection = text_encoder.at(name);
  check(projection.dim() == 2, ErrorKind::bad_shape, "text_projection has shape {}; it must be a matrix",
        c10::str(projection.sizes()));
  text_encoder.set(name, projection.t());
}

}  // namespace

SingleFile split_stable_diffusion_xl(const StateDict& tensors, const std::string& label) {
  const bool refiner = has_prefix(tensors, kRefinerOpenClip);
  if (!refiner) {
    require(tensors, "first text encoder", {kClip});
    require(tensors, "second text encoder", {kOpenClip});
  }
  std::vector<PrefixRule> rules{unet_rule(tensors), vae_rule(tensors)};
  if (!refiner) rules.push_back({kClip, "text_encoder", clip_name_from_ldm});
  rules.push_back({refiner ? kRefinerOpenClip : kOpenClip, "text_encoder_2", clip_name_from_open_clip});
  std::vector<std::string> notes;
  auto components = split_by_prefix(tensors, rules, label, notes);
  transpose_projection(components["text_encoder_2"]);

  auto unet = unet_config(components["unet"], 128);
  unet["attention_head_dim"] = heads_of_64(components["unet"]);
  const bool inpainting = unet["in_channels"] == 9;
  SingleFile file{
      .pipeline_class = inpainting ? "StableDiffusionXLInpaintPipeline"
                        : refiner  ? "StableDiffusionXLImg2ImgPipeline"
                                   : "StableDiffusionXLPipeline",
      .components = {{"unet", make_component(unet, components["unet"], label, "UNet")},
                     {"text_encoder_2", make_component(clip_config(components["text_encoder_2"], "gelu"),
                                                       components["text_encoder_2"], label, "second text encoder")}},
      .scheduler_config = scheduler_config(tensors, predicts_velocity(tensors, label, notes).value_or(false)),
  };
  file.notes = std::move(notes);
  add_vae(file, components, "StableDiffusionXLPipeline", label);
  if (!refiner)
    file.components["text_encoder"] = make_component(clip_config(components["text_encoder"], "quick_gelu", 768),
                                                     components["text_encoder"], label, "first text encoder");
  return file;
}

}  // namespace lora
