#pragma once
// Tools for the families of single-file checkpoints. Rules assign tensors to components by the prefixes of their names.
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/single_file.h"

namespace lora {

// The families. Each function splits a file of its family. Error messages do not contain the label of the file.
SingleFile split_stable_diffusion(const StateDict& tensors, const std::string& label);
SingleFile split_stable_diffusion_xl(const StateDict& tensors, const std::string& label);
SingleFile split_stable_diffusion_3(const StateDict& tensors, const std::string& label);

inline constexpr std::string_view kDiffusionModel = "model.diffusion_model.", kVae = "first_stage_model.";

// Tensors whose names begin with `prefix` belong to `component`.
struct PrefixRule {
  std::string_view prefix;
  const char* component;
  // Returns the new name for the rest of a name; empty if the component does not have such a tensor (names/ldm.h).
  std::function<std::string(std::string_view)> rename;
};

using Components = std::map<std::string, StateDict>;

// Assigns every tensor to a component, under its new name. The scale of a float8 weight goes with it. Tensors that
// training left in the file are ignored. Those without a rule or without a new name go into a note.
Components split_by_prefix(const StateDict& all, const std::vector<PrefixRule>& rules, const std::string& label,
                           std::vector<std::string>& notes);

// The rules of the networks that have the same layout in all families.
PrefixRule unet_rule(const StateDict& all);
PrefixRule vae_rule(const StateDict& all);

// Stable Diffusion 2 uses the output of the text encoder's second last layer. The last layer never runs, and some files
// do not have it.
StateDict without_last_layer(const StateDict& text_encoder);
// Stable Diffusion 3 does not project the pooled state of its first text encoder.
void set_identity_projection(StateDict& text_encoder);
// OpenCLIP stores the transpose of the projection.
void transpose_projection(StateDict& text_encoder);

// The width of the text that the UNet of a checkpoint reads; 0 for a UNet without such a layer.
int64_t context_width(const StateDict& all);
bool has_prefix(const StateDict& tensors, std::string_view prefix);

// One component. `what` is its name in error messages, after the label of the file.
Checkpoint make_component(const nlohmann::json& config, const StateDict& tensors, const std::string& label,
                          const std::string& what);

// Adds the VAE to a file of the family that `pipeline` runs, where the file has one. `fields` replace those of the
// family's config.
void add_vae(SingleFile& file, const Components& components, std::string_view pipeline, const std::string& label,
             const nlohmann::json& fields = nlohmann::json::object());

// Whether a Stable Diffusion model predicts velocity: a tensor "v_pred" says so, or else modelspec.prediction_type of
// the metadata. Nothing if the file does not say what it predicts. An unknown type is a note.
std::optional<bool> predicts_velocity(const StateDict& all, const std::string& label, std::vector<std::string>& notes);
// Whether the last training timestep has zero signal: a tensor "ztsnr" says so.
bool has_zero_snr(const StateDict& all);

// A scheduler config with the noise schedule of Stable Diffusion 1.x, 2.x and XL.
nlohmann::json scheduler_of(const std::string& class_name, bool v_prediction);

}  // namespace lora
