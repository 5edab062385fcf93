#pragma once
// The kinds that the library has. Each is defined in the file of its name.
#include "kinds/kind.h"

namespace lora {

const Kind& lora_kind();
const Kind& loha_kind();
const Kind& lokr_kind();
const Kind& glora_kind();
const Kind& ia3_kind();
const Kind& oft_kind();
const Kind& diff_kind();

const Addition& peft_magnitude();  // DoRA's two, in dora.cpp
const Addition& dora_scale();
const Addition& bias_difference();  // both in diff.cpp
const Addition& whole_bias();

}  // namespace lora
