#pragma once
// Layers as named tensors: the form of diffusers' state dicts, `<path>.lora_A.weight`, with strengths as tensors too.
#include <string>
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// The layers of one component, from `<path>.<canonical suffix>`. Keys that end as no tensor of an adapter go to
// `unmatched`. Throws Error{bad_shape} for an alpha or a scale that is not one number.
std::vector<LoraLayer> layers_of(const StateDict& tensors, const std::string& component,
                                 std::vector<LoadReport::Unmatched>& unmatched);

// Adds a layer's tensors as `<prefix>.<suffix>`, and the strengths that it has.
void add_tensors(StateDict& to, const std::string& prefix, const LoraLayer& layer);

}  // namespace lora
