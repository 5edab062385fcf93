// Stable Diffusion XL, base and refiner, in the layout of Stability's generative models code ("SGM").
#include <ATen/ATen.h>

#include "checkpoints/published_configs.h"
#include "checkpoints/single_file_parts.h"
#include "core/check.h"
#include "names/ldm.h"

namespace lora {

namespace {

constexpr std::string_view kClip = "conditioner.embedders.0.transformer.", kOpenClip = "conditioner.embedders.1.model.",
                           kRefinerOpenClip = "conditioner.embedders.0.model.";

// Models trained to predict velocity say so in their metadata, or by a tensor of this name; where their noise goes all
// the way down to no signal, another tensor says it.
std::string scheduler_config(const StateDict& all) {
  auto spec = all.metadata.find("modelspec.prediction_type");
  bool velocity = all.contains("v_pred") || (spec != all.metadata.end() && spec->second == "v");
  nlohmann::json config = {
      {"_class_name", "EulerDiscreteScheduler"},
      {"beta_end", 0.012},
      {"beta_schedule", "scaled_linear"},
      {"beta_start", 0.00085},
      {"interpolation_type", "linear"},
      {"num_train_timesteps", 1000},
      {"prediction_type", velocity ? "v_prediction" : "epsilon"},
      {"steps_offset", 1},
      {"timestep_spacing", "leading"},
      {"trained_betas", nullptr},
      {"use_karras_sigmas", false},
  };
  if (all.contains("ztsnr")) config["rescale_betas_zero_snr"] = true;
  return config.dump(2);
}

// OpenCLIP multiplies by its projection from the other side.
void transpose_projection(StateDict& text_encoder) {
  const std::string name = "text_projection.weight";
  const auto& projection = text_encoder.at(name);
  check(projection.dim() == 2, ErrorKind::bad_shape, "text_projection has shape {}, wanted a matrix",
        c10::str(projection.sizes()));
  text_encoder.set(name, projection.t());
}

}  // namespace

SingleFile split_stable_diffusion_xl(const StateDict& tensors, const std::string& label) {
  const bool refiner = has_prefix(tensors, kRefinerOpenClip);
  require(tensors, "VAE", {kVae});
  if (!refiner) {
    require(tensors, "first text encoder", {kClip});
    require(tensors, "second text encoder", {kOpenClip});
  }
  std::vector<Part> table{unet_part(tensors), vae_part(tensors)};
  if (!refiner) table.push_back({kClip, "text_encoder", clip_name_from_ldm});
  table.push_back({refiner ? kRefinerOpenClip : kOpenClip, "text_encoder_2", clip_name_from_open_clip});
  auto parts = split_parts(tensors, table, "Stable Diffusion XL");
  transpose_projection(parts["text_encoder_2"]);

  auto unet = unet_config(parts["unet"], 128);
  unet["attention_head_dim"] = heads_of_64(parts["unet"]);
  auto vae = vae_config(parts["vae"], 1024, 0.13025);
  vae["force_upcast"] = true;
  const bool inpainting = unet["in_channels"] == 9;
  SingleFile file{
      .pipeline_class = inpainting ? "StableDiffusionXLInpaintPipeline"
                        : refiner  ? "StableDiffusionXLImg2ImgPipeline"
                                   : "StableDiffusionXLPipeline",
      .components = {{"unet", {unet.dump(2), parts["unet"], label + " (UNet)"}},
                     {"vae", {vae.dump(2), parts["vae"], label + " (VAE)"}},
                     {"text_encoder_2",
                      {clip_config(parts["text_encoder_2"], "gelu").dump(2), parts["text_encoder_2"],
                       label + " (second text encoder)"}}},
      .scheduler_config = scheduler_config(tensors),
  };
  if (!refiner)
    file.components["text_encoder"] = {clip_config(parts["text_encoder"], "quick_gelu", 768).dump(2),
                                       parts["text_encoder"], label + " (first text encoder)"};
  return file;
}

}  // namespace lora
