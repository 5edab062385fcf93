// Stable Diffusion 1.x and 2.x, in the layout of the latent diffusion code ("LDM").
#include <ATen/ATen.h>

#include "checkpoints/published_configs.h"
#include "checkpoints/single_file_rules.h"
#include "names/ldm.h"

namespace lora {

namespace {

constexpr std::string_view kClip = "cond_stage_model.transformer.", kOpenClip = "cond_stage_model.model.";

// The published model from which a checkpoint is derived.
struct Kind {
  bool v2 = false;            // OpenCLIP text encoder, heads of 64 channels
  bool v_prediction = false;  // predicts velocity
  bool zero_snr = false;      // trained down to zero signal
  bool inpainting = false;    // nine input channels

  bool has_768_pixels() const { return v2 && v_prediction; }
};

Kind kind_of(const StateDict& all, const std::string& label, std::vector<std::string>& notes) {
  Kind kind;
  kind.v2 = has_prefix(all, "cond_stage_model.model.transformer.") ||
            (!has_prefix(all, kClip) && context_width(all) == kOpenClipHWidth);
  kind.zero_snr = has_zero_snr(all);
  kind.inpainting = dimension(all, "model.diffusion_model.input_blocks.0.0.weight", 1) == 9;

  // The 512-pixel model of version 2.0 was published at step 875000.
  auto* step = all.find("global_step");
  bool base_step = step && step->numel() == 1 && step->item().toDouble() == 875000;
  kind.v_prediction = predicts_velocity(all, label, notes).value_or(kind.v2 && !kind.inpainting && !base_step);
  return kind;
}

std::string scheduler_config(const Kind& kind) {
  // The published schedulers: PNDM for 1.x and for the 512-pixel 2.x, DDIM for the others. PNDM cannot start from zero
  // signal.
  bool ddim = kind.zero_snr || (kind.v2 ? kind.v_prediction : kind.inpainting);
  auto config = scheduler_of(ddim ? "DDIMScheduler" : "PNDMScheduler", kind.v_prediction);
  config["set_alpha_to_one"] = false;
  if (ddim)
    config["clip_sample"] = false;
  else
    config["skip_prk_steps"] = true;
  // Only trailing timesteps contain the last one, which is the one without signal (arXiv:2305.08891).
  if (kind.zero_snr) config.update({{"rescale_betas_zero_snr", true}, {"timestep_spacing", "trailing"}});
  return config.dump(2);
}

}  // namespace

SingleFile split_stable_diffusion(const StateDict& tensors, const std::string& label) {
  std::vector<std::string> notes;
  auto kind = kind_of(tensors, label, notes);
  auto components = split_by_prefix(tensors,
                                    {unet_rule(tensors),
                                     vae_rule(tensors),
                                     {kOpenClip, "text_encoder", clip_name_from_open_clip},
                                     {kClip, "text_encoder", clip_name_from_ldm}},
                                    label, notes);
  auto unet = unet_config(components["unet"], kind.has_768_pixels() ? 96 : 64);
  unet["attention_head_dim"] = kind.v2 ? heads_of_64(components["unet"]) : nlohmann::json(8);
  if (kind.has_768_pixels()) unet["upcast_attention"] = true;
  SingleFile file{
      .pipeline_class = kind.inpainting ? "StableDiffusionInpaintPipeline" : "StableDiffusionPipeline",
      .components = {{"unet", make_component(unet, components["unet"], label, "UNet")}},
      .scheduler_config = scheduler_config(kind),
      .notes = std::move(notes),
  };
  if (auto found = components.find("text_encoder"); found != components.end()) {
    auto text_encoder = kind.v2 ? without_last_layer(found->second) : found->second;
    auto config = clip_config(text_encoder, kind.v2 ? "gelu" : "quick_gelu", kind.v2 ? 512 : 768);
    file.components["text_encoder"] = make_component(config, text_encoder, label, "text encoder");
  }
  add_vae(file, components, "StableDiffusionPipeline", label, {{"sample_size", kind.has_768_pixels() ? 768 : 512}});
  return file;
}

}  // namespace lora
