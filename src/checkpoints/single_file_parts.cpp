#include "checkpoints/single_file_parts.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "checkpoints/published_configs.h"
#include "core/check.h"
#include "core/text.h"
#include "names/ldm.h"

namespace lora {

namespace {

// What training and other programs leave in a file and no model needs: prefixes of names.
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
    "denoiser.sigmas",
    "v_pred",
    "ztsnr",
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
    "conditioner.embedders.0.logit_scale",
    "conditioner.embedders.0.text_projection",
    "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
    "conditioner.embedders.0.transformer.text_projection",
    "conditioner.embedders.0.model.attn_mask",
    "conditioner.embedders.0.model.logit_scale",
    "conditioner.embedders.1.model.attn_mask",
    "conditioner.embedders.1.model.logit_scale",
    "text_encoders.clip_l.logit_scale",
    "text_encoders.clip_l.transformer.text_model.embeddings.position_ids",
    "text_encoders.clip_l.transformer.text_projection.",  // Stable Diffusion 3 takes the identity in its place
    "text_encoders.clip_g.logit_scale",
    "text_encoders.clip_g.transformer.text_model.embeddings.position_ids",
    "text_encoders.t5xxl.logit_scale",
};

bool passed_over(const std::string& name) {
  return std::ranges::any_of(kPassedOver, [&](auto prefix) { return name.starts_with(prefix); });
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

}  // namespace

Components split_parts(const StateDict& all, const std::vector<Part>& parts, const std::string& family) {
  Components components;
  std::vector<std::string> left;
  for (const auto& [name, t] : all) {
    if (passed_over(name)) continue;
    auto part = std::ranges::find_if(parts, [&](const Part& p) { return name.starts_with(p.prefix); });
    auto ours = part == parts.end() ? "" : part->rename(std::string_view(name).substr(part->prefix.size()));
    if (ours.empty())
      left.push_back(name);
    else
      add(components[part->component], ours, t);
  }
  check(left.empty(), ErrorKind::bad_key, "tensors that are in no {} checkpoint: {}; is it a variant with more parts?",
        family, listing(left));
  return components;
}

Part unet_part(const StateDict& all) {
  auto layers = count_blocks(all, std::string(kDiffusionModel) + "input_blocks.{}.0.in_layers.0.weight", 1);
  return {kDiffusionModel, "unet", [layers](auto name) { return unet_name_from_ldm(name, layers); }};
}

Part vae_part(const StateDict& all) {
  auto levels = count_blocks(all, std::string(kVae) + "encoder.down.{}.block.0.conv1.weight");
  return {kVae, "vae", [levels](auto name) { return vae_name_from_ldm(name, levels); }};
}

bool has_prefix(const StateDict& tensors, std::string_view prefix) {
  return std::any_of(tensors.begin(), tensors.end(), [&](const auto& item) { return item.first.starts_with(prefix); });
}

void require(const StateDict& tensors, const char* what, const std::vector<std::string_view>& prefixes) {
  if (std::ranges::any_of(prefixes, [&](auto prefix) { return has_prefix(tensors, prefix); })) return;
  std::vector<std::string> shown;
  for (auto prefix : prefixes) shown.push_back(fmt::format("\"{}…\"", prefix));
  fail(ErrorKind::not_found, "the checkpoint has no {} ({})", what, join(shown, " or "));
}

}  // namespace lora
