#pragma once
// What the families of single-file checkpoints share: tensors to components, by tables of prefixes.
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/single_file.h"

namespace lora {

// The families. Each gives the components of a file that is of its kind; messages are without the file's label.
SingleFile split_stable_diffusion(const StateDict& tensors, const std::string& label);
SingleFile split_stable_diffusion_xl(const StateDict& tensors, const std::string& label);
SingleFile split_stable_diffusion_3(const StateDict& tensors, const std::string& label);

inline constexpr std::string_view kDiffusionModel = "model.diffusion_model.", kVae = "first_stage_model.";

// Where the tensors go whose names begin with a prefix.
struct Part {
  std::string_view prefix;
  const char* component;
  std::function<std::string(std::string_view)> rename;  // the rest of a name to ours, as in names/ldm.h
};

using Components = std::map<std::string, StateDict>;

// Every tensor under its new name, those left by training apart. Throws Error{bad_key} naming tensors that no part
// takes; `family` says what has no such tensors.
Components split_parts(const StateDict& all, const std::vector<Part>& parts, const std::string& family);

// The parts of the networks that all families keep in one layout.
Part unet_part(const StateDict& all);
Part vae_part(const StateDict& all);

bool has_prefix(const StateDict& tensors, std::string_view prefix);
// Throws Error{not_found} where no tensor's name begins with one of `prefixes`.
void require(const StateDict& tensors, const char* what, const std::vector<std::string_view>& prefixes);

}  // namespace lora
