#pragma once
// What diffusers' and PEFT's files say of plain LoRA beside its tensors.
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// Whether those files can hold a layer, in the form that as_peft() gives it.
bool is_plain_lora(const LoraLayer& layer);
// What multiplies a layer's factors, times its rank.
double alpha_of(const LoraLayer& layer);
// The fields of a LoraConfig that says how one component's layers act, a JSON object as text: r, lora_alpha,
// rank_pattern, alpha_pattern, target_modules, flags. `layers` as as_peft() gives them, at least one.
std::string adapter_fields(const std::string& component, const std::vector<LoraLayer>& layers);

}  // namespace lora
