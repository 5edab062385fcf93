#pragma once
// Checkpoints in float8: weights as they are, or with a scale beside each, as ComfyUI writes them.
#include <string>
#include <string_view>

#include "lora/state_dict.h"

namespace lora {

bool is_float8(Dtype dtype);

// The name of the weight that a scale belongs to: "q.weight" for "q.scale_weight" and "q.weight_scale". "" for a name
// of another tensor.
std::string weight_of_scale(std::string_view name);
// The name of the scale in a weight's place: the reverse. `name` is the present name of the scale.
std::string scale_of_weight(std::string_view weight, std::string_view name);
// Whether a tensor says how a program computes with float8 weights. It does not change the weights.
bool is_float8_mark(std::string_view name);

// The scale of a weight, or nullptr.
const Tensor* scale_beside(const StateDict& tensors, const std::string& weight);
// The weight times its scale, in float32.
Tensor scaled(const Tensor& weight, const Tensor& scale);
// Throws Error{bad_shape} for a scale that is neither one number nor one for each row of its weight. Throws
// Error{unsupported} for weights of another quantized form.
void check_scales(const StateDict& tensors, const std::string& label);

// "12 tensors are float8_e4m3fn, and were converted to bfloat16"; "" for tensors without float8. Says whether they have
// scales.
std::string note_of_float8(const StateDict& tensors, Dtype dtype, const std::string& label);

}  // namespace lora
