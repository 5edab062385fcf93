// Stable Diffusion 1.x and 2.x, in the layout of the latent diffusion code ("LDM").
#include <ATen/ATen.h>

#include "checkpoints/published_configs.h"
#include "checkpoints/single_file_parts.h"
#include "names/ldm.h"

namespace lora {

namespace {

constexpr std::string_view kClip = "cond_stage_model.transformer.", kOpenClip = "cond_stage_model.model.";

// Which of the published models a checkpoint is a relative of.
struct Kind {
  bool v2 = false;            // OpenCLIP text encoder, heads of 64 channels
  bool v_prediction = false;  // predicts velocity, at 768 pixels
  bool inpainting = false;    // nine input channels
};

Kind kind_of(const StateDict& all) {
  Kind kind;
  kind.v2 = has_prefix(all, kOpenClip);
  kind.inpainting = dimension(all, "model.diffusion_model.input_blocks.0.0.weight", 1) == 9;

  // Step 875000 is where the 512-pixel model of version 2.0 was published.
  auto* step = all.find("global_step");
  bool base_step = step && step->numel() == 1 && step->item().toDouble() == 875000;
  auto spec = all.metadata.find("modelspec.prediction_type");
  bool says_epsilon = spec != all.metadata.end() && spec->second == "epsilon";
  kind.v_prediction = kind.v2 && !kind.inpainting && !base_step && !says_epsilon;
  return kind;
}

// Stable Diffusion 2 reads the text encoder's last layer but one; the last is never run. Files without it exist.
StateDict without_last_layer(const StateDict& tensors) {
  constexpr int64_t kUsedLayers = 23;
  auto layers = count_blocks(tensors, "text_model.encoder.layers.{}.layer_norm1.weight");
  if (layers == kUsedLayers) return tensors;
  auto last = "text_model.encoder.layers." + std::to_string(layers - 1) + ".";
  StateDict kept;
  for (const auto& [name, t] : tensors)
    if (!name.starts_with(last)) kept.set(name, t);
  return kept;
}

std::string scheduler_config(const Kind& kind) {
  // As published with each model: 1.x and the 512-pixel 2.x start from PNDM, the others from DDIM.
  bool ddim = kind.v2 ? kind.v_prediction : kind.inpainting;
  nlohmann::json config = {
      {"_class_name", ddim ? "DDIMScheduler" : "PNDMScheduler"},
      {"beta_end", 0.012},
      {"beta_schedule", "scaled_linear"},
      {"beta_start", 0.00085},
      {"clip_sample", false},
      {"num_train_timesteps", 1000},
      {"prediction_type", kind.v_prediction ? "v_prediction" : "epsilon"},
      {"set_alpha_to_one", false},
      {"steps_offset", 1},
      {"trained_betas", nullptr},
  };
  if (!ddim) config["skip_prk_steps"] = true, config.erase("clip_sample");
  return config.dump(2);
}

}  // namespace

SingleFile split_stable_diffusion(const StateDict& tensors, const std::string& label) {
  require(tensors, "VAE", {kVae});
  require(tensors, "text encoder", {kClip, kOpenClip});
  auto kind = kind_of(tensors);
  auto parts = split_parts(tensors,
                           {unet_part(tensors),
                            vae_part(tensors),
                            {kOpenClip, "text_encoder", clip_name_from_open_clip},
                            {kClip, "text_encoder", clip_name_from_ldm}},
                           "Stable Diffusion 1.x or 2.x");
  auto& text_encoder = parts["text_encoder"];
  if (kind.v2) text_encoder = without_last_layer(text_encoder);

  auto unet = unet_config(parts["unet"], kind.v_prediction ? 96 : 64);
  unet["attention_head_dim"] = kind.v2 ? heads_of_64(parts["unet"]) : nlohmann::json(8);
  if (kind.v_prediction) unet["upcast_attention"] = true;
  auto vae = vae_config(parts["vae"], kind.v_prediction ? 768 : 512, 0.18215);
  auto clip = clip_config(text_encoder, kind.v2 ? "gelu" : "quick_gelu", kind.v2 ? 512 : 768);
  return {
      .pipeline_class = kind.inpainting ? "StableDiffusionInpaintPipeline" : "StableDiffusionPipeline",
      .components = {{"unet", {unet.dump(2), parts["unet"], label + " (UNet)"}},
                     {"vae", {vae.dump(2), parts["vae"], label + " (VAE)"}},
                     {"text_encoder", {clip.dump(2), text_encoder, label + " (text encoder)"}}},
      .scheduler_config = scheduler_config(kind),
  };
}

}  // namespace lora
