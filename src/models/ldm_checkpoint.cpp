#include "models/ldm_checkpoint.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>

#include "core/check.h"
#include "core/text.h"
#include "models/ldm_config.h"
#include "models/names_ldm.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kUnet = "model.diffusion_model.", kVae = "first_stage_model.",
                           kClip = "cond_stage_model.transformer.", kOpenClip = "cond_stage_model.model.";

const std::string kConvIn = "model.diffusion_model.input_blocks.0.0.weight";

// Other kinds of file, told by a piece of a name that they all have and nothing before them in this list has.
struct Sign {
  const char* piece;
  const char* kind;
};
constexpr Sign kSigns[] = {
    {"conditioner.embedders.", "a Stable Diffusion XL checkpoint"},
    {"_A.weight", "an adapter file; load it onto a pipeline instead"},
    {"_down.weight", "an adapter file; load it onto a pipeline instead"},
    {".down.weight", "an adapter file; load it onto a pipeline instead"},
    {"hada_w1", "an adapter file; load it onto a pipeline instead"},
    {"lokr_w", "an adapter file; load it onto a pipeline instead"},
    {"control_model.", "a ControlNet"},
    {"controlnet_", "a ControlNet"},
    {"motion_modules.", "an AnimateDiff motion module"},
    {"joint_blocks.", "a Stable Diffusion 3 checkpoint"},
    {"double_blocks.", "a Flux checkpoint"},
    {"encoder.down_blocks.", "diffusers' VAE; give the folder of the whole pipeline instead"},
    {"down_blocks.", "diffusers' UNet; give the folder of the whole pipeline instead"},
    {"transformer_blocks.", "a diffusers transformer; give the folder of the whole pipeline instead"},
    {"encoder.layers.", "a text encoder; give the folder of the whole pipeline instead"},
    {"encoder.down.", "a VAE on its own"},
    {"string_to_param", "a textual inversion embedding"},
    {"emb_params", "a textual inversion embedding"},
};

// What training leaves in a file and no model needs: prefixes of names.
constexpr std::string_view kPassedOver[] = {
    "model_ema.",
    "betas",
    "alphas_cumprod",
    "sqrt_",
    "log_one_minus_alphas_cumprod",
    "posterior_",
    "logvar",
    "lvlb_weights",
    "global_step",
    "scale_factor",
    "first_stage_model.loss.",
    "first_stage_model.model_ema.",
    "cond_stage_model.logit_scale",
    "cond_stage_model.text_projection",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "cond_stage_model.transformer.embeddings.position_ids",
    "cond_stage_model.transformer.text_projection",
    "cond_stage_model.model.attn_mask",
    "cond_stage_model.model.logit_scale",
    "cond_stage_model.model.text_projection",
};

bool passed_over(const std::string& name) {
  return std::any_of(std::begin(kPassedOver), std::end(kPassedOver), [&](auto p) { return name.starts_with(p); });
}

bool has_prefix(const StateDict& tensors, std::string_view prefix) {
  return std::any_of(tensors.begin(), tensors.end(), [&](const auto& item) { return item.first.starts_with(prefix); });
}

[[noreturn]] void reject(const StateDict& tensors, const std::string& label) {
  for (const auto& sign : kSigns)
    for (const auto& [name, t] : tensors)
      check(name.find(sign.piece) == std::string::npos, ErrorKind::unsupported,
            "{}: not a Stable Diffusion 1.x or 2.x checkpoint; it looks like {}", label, sign.kind);
  std::vector<std::string> names;
  for (const auto& [name, t] : tensors) names.push_back(name);
  fail(ErrorKind::unsupported, "{}: not a Stable Diffusion 1.x or 2.x checkpoint; its tensors: {}", label,
       names.empty() ? "none" : listing(names, 4));
}

void check_kind(const StateDict& tensors, const std::string& label) {
  if (!tensors.contains(kConvIn) || has_prefix(tensors, "conditioner.embedders.")) reject(tensors, label);
  check(has_prefix(tensors, kVae), ErrorKind::not_found, "{}: the checkpoint has no VAE (\"{}…\")", label, kVae);
  check(has_prefix(tensors, kClip) || has_prefix(tensors, kOpenClip), ErrorKind::not_found,
        "{}: the checkpoint has no text encoder (\"{}…\" or \"{}…\")", label, kClip, kOpenClip);
}

LdmKind kind_of(const StateDict& all) {
  LdmKind kind;
  auto& conv_in = all.at(kConvIn);
  kind.v2 = has_prefix(all, kOpenClip);
  kind.inpainting = conv_in.dim() == 4 && conv_in.size(1) == 9;

  // Step 875000 is where the 512-pixel model of version 2.0 was published.
  auto* step = all.find("global_step");
  bool base_step = step && step->numel() == 1 && step->item().toDouble() == 875000;
  auto spec = all.metadata.find("modelspec.prediction_type");
  bool says_epsilon = spec != all.metadata.end() && spec->second == "epsilon";
  kind.v_prediction = kind.v2 && !kind.inpainting && !base_step && !says_epsilon;
  return kind;
}

// The 1×1 convolutions of the VAE's attention, as the linear layers that they are.
Tensor as_linear(const std::string& name, const Tensor& t) {
  check(t.dim() >= 2 && t.numel() == t.size(0) * t.size(1), ErrorKind::bad_shape,
        "{} has shape {}, wanted a linear layer or a 1×1 convolution", name, c10::str(t.sizes()));
  return t.flatten(1);
}

// A tensor under its new name; where the name stands for three, its thirds.
void add(StateDict& to, const std::string& name, const Tensor& t) {
  bool linear = name.find("coder.mid_block.attentions.0.to_") != std::string::npos && name.ends_with(".weight");
  if (linear) return to.set(name, as_linear(name, t));
  if (name.find(kFusedMark) == std::string::npos) return to.set(name, t);
  check(t.dim() >= 1 && t.size(0) % 3 == 0 && t.size(0) > 0, ErrorKind::bad_shape,
        "{} has shape {}, which does not part in three", name, c10::str(t.sizes()));
  auto parts = t.chunk(3);
  for (size_t i = 0; i < 3; ++i) to.set(replace_all(name, kFusedMark, kFusedNames[i]), parts[i]);
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

struct Components {
  StateDict unet, vae, text_encoder;
};

Components renamed(const StateDict& all) {
  auto unet_layers = count_blocks(all, std::string(kUnet) + "input_blocks.{}.0.in_layers.0.weight", 1);
  auto vae_levels = count_blocks(all, std::string(kVae) + "encoder.down.{}.block.0.conv1.weight");
  struct Part {
    std::string_view prefix;
    StateDict Components::*tensors;
    std::function<std::string(std::string_view)> rename;
  };
  const Part parts[] = {
      {kUnet, &Components::unet, [&](auto name) { return unet_name_from_ldm(name, unet_layers); }},
      {kVae, &Components::vae, [&](auto name) { return vae_name_from_ldm(name, vae_levels); }},
      {kOpenClip, &Components::text_encoder, clip_name_from_open_clip},
      {kClip, &Components::text_encoder, clip_name_from_ldm},
  };

  Components components;
  std::vector<std::string> left;
  for (const auto& [name, t] : all) {
    if (passed_over(name)) continue;
    auto part = std::find_if(std::begin(parts), std::end(parts), [&](auto& p) { return name.starts_with(p.prefix); });
    auto ours = part == std::end(parts) ? "" : part->rename(std::string_view(name).substr(part->prefix.size()));
    if (ours.empty())
      left.push_back(name);
    else
      add(components.*part->tensors, ours, t);
  }
  check(left.empty(), ErrorKind::bad_key,
        "tensors that are in no Stable Diffusion 1.x or 2.x checkpoint: {}; is it a variant with more parts?",
        listing(left));
  return components;
}

}  // namespace

LdmCheckpoint open_ldm_checkpoint(const fs::path& file) {
  return split_ldm_checkpoint(load_state_dict(file), file.string());
}

LdmCheckpoint split_ldm_checkpoint(const StateDict& tensors, const std::string& label) {
  check_kind(tensors, label);
  try {
    auto kind = kind_of(tensors);
    auto [unet, vae, text_encoder] = renamed(tensors);
    if (kind.v2) text_encoder = without_last_layer(text_encoder);
    return {{ldm_unet_config(unet, kind), unet, label + " (UNet)"},
            {ldm_vae_config(vae, kind), vae, label + " (VAE)"},
            {ldm_text_encoder_config(text_encoder, kind), text_encoder, label + " (text encoder)"},
            ldm_scheduler_config(kind)};
  } catch (const Error& error) {
    throw Error(error.kind(), label + ": " + error.what());
  }
}

}  // namespace lora
