#include "checkpoints/single_file.h"

#include "checkpoints/single_file_rules.h"
#include "core/check.h"
#include "core/text.h"
#include "kinds/kinds.h"

namespace lora {

namespace {

// Other kinds of files. Each is recognised by a piece of a tensor name, and the first match in this list counts.
struct Sign {
  const char* piece;
  const char* kind;
};
constexpr Sign kSigns[] = {
    {"control_model.", "a ControlNet"},
    {"controlnet_", "a ControlNet"},
    {"motion_modules.", "an AnimateDiff motion module"},
    {"joint_blocks.", "the transformer of a Stable Diffusion 3 checkpoint on its own"},
    {"double_blocks.", "a Flux checkpoint"},
    {"encoder.down_blocks.", "diffusers' VAE; give the folder of the whole pipeline instead"},
    {"down_blocks.", "diffusers' UNet; give the folder of the whole pipeline instead"},
    {"transformer_blocks.", "a diffusers transformer; give the folder of the whole pipeline instead"},
    {"encoder.layers.", "a text encoder; give the folder of the whole pipeline instead"},
    {"encoder.down.", "a VAE on its own"},
    {"string_to_param", "a textual inversion embedding"},
    {"emb_params", "a textual inversion embedding"},
};
constexpr auto kWanted = "not a Stable Diffusion checkpoint (1.x, 2.x, XL or 3)";

[[noreturn]] void reject(const StateDict& tensors) {
  for (const auto& [name, t] : tensors)
    check(!is_adapter_key(name) && !name.ends_with(".down.weight"), ErrorKind::unsupported,
          "{}; it looks like an adapter file; load it onto a pipeline instead", kWanted);
  for (const auto& sign : kSigns)
    for (const auto& [name, t] : tensors)
      check(name.find(sign.piece) == std::string::npos, ErrorKind::unsupported, "{}; it looks like {}", kWanted,
            sign.kind);
  std::vector<std::string> names;
  for (const auto& [name, t] : tensors) names.push_back(name);
  fail(ErrorKind::unsupported, "{}; its tensors: {}", kWanted, names.empty() ? "none" : listing(names, 4));
}

SingleFile split(const StateDict& tensors, const std::string& label) {
  if (has_prefix(tensors, "model.diffusion_model.joint_blocks.")) return split_stable_diffusion_3(tensors, label);
  if (!tensors.contains("model.diffusion_model.input_blocks.0.0.weight")) reject(tensors);
  // Without text encoders, the place of the pooled embeddings tells SDXL.
  const bool xl =
      has_prefix(tensors, "conditioner.embedders.") ||
      (!has_prefix(tensors, "cond_stage_model.") && has_prefix(tensors, "model.diffusion_model.label_emb."));
  if (xl) return split_stable_diffusion_xl(tensors, label);
  return split_stable_diffusion(tensors, label);
}

}  // namespace

SingleFile open_single_file(const std::filesystem::path& file) {
  return split_single_file(load_state_dict(file), file.string());
}

SingleFile split_single_file(const StateDict& tensors, const std::string& label) {
  try {
    return split(tensors, label);
  } catch (const Error& error) {
    throw Error(error.kind(), label + ": " + error.what());
  }
}

}  // namespace lora
