#include "checkpoints/single_file_rules.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "checkpoints/float8.h"
#include "checkpoints/published_configs.h"
#include "core/check.h"
#include "core/text.h"
#include "names/ldm.h"

namespace lora {

namespace {

// Prefixes of the names of tensors that models do not need. Training and other programs leave them in files.
constexpr std::string_view kIgnored[] = {
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
    "text_encoders.clip_l.transformer.text_projection.",  // Stable Diffusion 3 uses the identity instead
    "text_encoders.clip_g.logit_scale",
    "text_encoders.clip_g.transformer.text_model.embeddings.position_ids",
    "text_encoders.t5xxl.logit_scale",
};

bool is_ignored(const std::string& name) {
  return is_float8_mark(name) || std::ranges::any_of(kIgnored, [&](auto prefix) { return name.starts_with(prefix); });
}

// The weight of a linear layer that the file has as a 1×1 convolution (the attention of the VAE).
Tensor as_linear(const std::string& name, const Tensor& t) {
  check(t.dim() >= 2 && t.numel() == t.size(0) * t.size(1), ErrorKind::bad_shape,
        "{} has shape {}; it must be that of a linear layer or of a 1×1 convolution", name, c10::str(t.sizes()));
  return t.flatten(1);
}

// Adds a tensor under its new name. If the name is for three fused layers, adds a third of the tensor to each.
void add(StateDict& to, const std::string& name, const Tensor& t) {
  bool linear = name.find("coder.mid_block.attentions.0.to_") != std::string::npos && name.ends_with(".weight");
  if (linear) return to.set(name, as_linear(name, t));
  if (name.find(kFusedMark) == std::string::npos) return to.set(name, t);
  check(t.dim() >= 1 && t.size(0) % 3 == 0 && t.size(0) > 0, ErrorKind::bad_shape,
        "{} has shape {}; its first size must be a multiple of 3", name, c10::str(t.sizes()));
  auto thirds = t.chunk(3);
  for (size_t i = 0; i < 3; ++i) to.set(replace_all(name, kFusedMark, kFusedNames[i]), thirds[i]);
}

// Adds the scale of a weight, which has a new name.
void add_scale(StateDict& to, const std::string& weight, const std::string& name, const Tensor& scale) {
  if (weight.find(kFusedMark) == std::string::npos) return to.set(scale_of_weight(weight, name), scale);
  for (size_t i = 0; i < 3; ++i)
    to.set(scale_of_weight(replace_all(weight, kFusedMark, kFusedNames[i]), name),
           scale.numel() == 1 ? scale : scale.chunk(3).at(i));
}

}  // namespace

Components split_by_prefix(const StateDict& all, const std::vector<PrefixRule>& rules, const std::string& label,
                           std::vector<std::string>& notes) {
  Components components;
  std::vector<std::string> left;
  for (const auto& [name, t] : all) {
    if (is_ignored(name)) continue;
    const auto weight = weight_of_scale(name);
    const auto& placed = weight.empty() ? name : weight;
    auto rule = std::ranges::find_if(rules, [&](const PrefixRule& r) { return placed.starts_with(r.prefix); });
    auto renamed = rule == rules.end() ? "" : rule->rename(std::string_view(placed).substr(rule->prefix.size()));
    if (renamed.empty())
      left.push_back(name);
    else if (weight.empty())
      add(components[rule->component], renamed, t);
    else
      add_scale(components[rule->component], renamed, name, t);
  }
  if (!left.empty()) notes.push_back(note_of_left_out(label, left));
  return components;
}

PrefixRule unet_rule(const StateDict& all) {
  auto layers = count_blocks(all, std::string(kDiffusionModel) + "input_blocks.{}.0.in_layers.0.weight", 1);
  return {kDiffusionModel, "unet", [layers](auto name) { return unet_name_from_ldm(name, layers); }};
}

PrefixRule vae_rule(const StateDict& all) {
  auto levels = count_blocks(all, std::string(kVae) + "encoder.down.{}.block.0.conv1.weight");
  return {kVae, "vae", [levels](auto name) { return vae_name_from_ldm(name, levels); }};
}

StateDict without_last_layer(const StateDict& text_encoder) {
  constexpr int64_t kUsedLayers = 23;
  auto layers = count_blocks(text_encoder, "text_model.encoder.layers.{}.layer_norm1.weight");
  if (layers == kUsedLayers) return text_encoder;
  auto last = "text_model.encoder.layers." + std::to_string(layers - 1) + ".";
  StateDict kept;
  for (const auto& [name, t] : text_encoder)
    if (!name.starts_with(last)) kept.set(name, t);
  return kept;
}

void set_identity_projection(StateDict& text_encoder) {
  const std::string kTokens = "text_model.embeddings.token_embedding.weight";
  const auto hidden = dimension(text_encoder, kTokens, 1);
  text_encoder.set("text_projection.weight", at::eye(hidden, text_encoder.at(kTokens).options()));
}

void transpose_projection(StateDict& text_encoder) {
  const std::string name = "text_projection.weight";
  const auto& projection = text_encoder.at(name);
  check(projection.dim() == 2, ErrorKind::bad_shape, "text_projection has shape {}; it must be a matrix",
        c10::str(projection.sizes()));
  text_encoder.set(name, projection.t());
}

int64_t context_width(const StateDict& all) {
  const std::string name = std::string(kDiffusionModel) + "middle_block.1.transformer_blocks.0.attn2.to_k.weight";
  return all.contains(name) ? dimension(all, name, 1) : 0;
}

bool has_prefix(const StateDict& tensors, std::string_view prefix) {
  return std::any_of(tensors.begin(), tensors.end(), [&](const auto& item) { return item.first.starts_with(prefix); });
}

Checkpoint make_component(const nlohmann::json& config, const StateDict& tensors, const std::string& label,
                          const std::string& what) {
  return {config.dump(2), tensors, label + " (" + what + ")"};
}

void add_vae(SingleFile& file, const Components& components, std::string_view pipeline, const std::string& label,
             const nlohmann::json& fields) {
  auto vae = components.find("vae");
  if (vae == components.end()) return;
  auto config = vae_config(pipeline, vae->second);
  config.update(fields);
  file.components["vae"] = make_component(config, vae->second, label, "VAE");
}

std::optional<bool> predicts_velocity(const StateDict& all, const std::string& label, std::vector<std::string>& notes) {
  if (all.contains("v_pred")) return true;
  const std::string kField = "modelspec.prediction_type";
  auto stated = all.metadata.find(kField);
  if (stated == all.metadata.end()) return std::nullopt;
  if (stated->second == "v" || stated->second == "v_prediction") return true;
  if (stated->second == "epsilon") return false;
  notes.push_back(fmt::format("{}: {} is \"{}\", which is unknown, and has no effect", label, kField, stated->second));
  return std::nullopt;
}

bool has_zero_snr(const StateDict& all) { return all.contains("ztsnr"); }

nlohmann::json scheduler_of(const std::string& class_name, bool v_prediction) {
  return {
      {"_class_name", class_name},
      {"beta_end", 0.012},
      {"beta_schedule", "scaled_linear"},
      {"beta_start", 0.00085},
      {"num_train_timesteps", 1000},
      {"prediction_type", v_prediction ? "v_prediction" : "epsilon"},
      {"steps_offset", 1},
      {"trained_betas", nullptr},
  };
}

}  // namespace lora
