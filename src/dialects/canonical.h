#pragma once
// Layers as named tensors: the form of diffusers' state dicts, `<path>.lora_A.weight`, with strengths as tensors too.
#include <string>
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// The one number of an alpha or a scale. Throws Error{bad_shape} for several numbers and for none, Error{bad_file} for
// a tensor that is not a number, such as a truth value.
double read_strength(const std::string& key, const Tensor& tensor);
// Throws Error{unsupported} for factors that are not floating-point numbers. The message names the file's scales.
void check_floating_point(const std::vector<LoraLayer>& layers, const std::vector<LoadReport::Unmatched>& unmatched);

// The layers of one component, from `<path>.<canonical suffix>`. Keys that end as no tensor of an adapter go to
// `unmatched`. Throws as read_strength() does.
std::vector<LoraLayer> layers_of(const StateDict& tensors, const std::string& component,
                                 std::vector<LoadReport::Unmatched>& unmatched);

// Adds a layer's tensors as `<prefix>.<suffix>`, and the strengths that it has.
void add_tensors(StateDict& to, const std::string& prefix, const LoraLayer& layer);

}  // namespace lora
